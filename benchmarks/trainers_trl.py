"""TRL's side of `benchmarks/trainers.py`: the same prompts and rows, in the same order.

Its environment has TRL 1.16 beside what r1pipe needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trl
from datasets import Dataset
from trainers_data import (
    BATCH_SIZE,
    GROUP_SIZE,
    GRPO_RATE,
    LEARNING_RATE,
    MAX_STEPS,
    MAX_TOKENS,
    NUM_PROMPTS,
    SEED,
    problems,
    sequences,
    supervised_params,
)
from trainers_sides import Turns
from transformers import TrainerCallback

from r1pipe.curricula.order import problem_order
from r1pipe.models.policy import load_tokenizer
from r1pipe.models.prompts import encode_prompt
from r1pipe.rewards.length import length
from r1pipe.train.supervised import batches_of


def trl_grpo(folder: Path, turns: Turns, options: dict[str, Any]) -> None:
    """Run TRL's GRPOTrainer on the same prompts, in the same order, with the same reward."""
    order = problem_order(problems(options.pop("mean_chars")), NUM_PROMPTS, SEED)
    asked = [problem for _ in range(MAX_STEPS) for problem in next(order)]
    tokenizer = load_tokenizer(folder)
    texts = [tokenizer.decode(encode_prompt(tokenizer, p.prompt, "chat")) for p in asked]
    by_number = {str(i): problem for i, problem in enumerate(asked)}
    sizes: list[float] = []

    def reward(completions: list[str], number: list[str], **_: Any) -> list[float]:
        return [length(by_number[n], text) for n, text in zip(number, completions, strict=True)]

    config = trl.GRPOConfig(
        **trl_common(folder, GROUP_SIZE * NUM_PROMPTS, options, GRPO_RATE),
        num_generations=GROUP_SIZE,
        max_completion_length=MAX_TOKENS,
        beta=options.pop("kl_coef"),
        epsilon=0.2,
        temperature=1.0,
        shuffle_dataset=False,
        **options,
    )
    data = Dataset.from_list([{"prompt": t, "number": str(i)} for i, t in enumerate(texts)])
    trainer = trl.GRPOTrainer(
        model=str(folder),
        reward_funcs=reward,
        args=config,
        train_dataset=data,
        processing_class=tokenizer,
        callbacks=[trl_turns(turns)],
    )
    generate = turns.timed("generation", trainer._generate_single_turn)

    def counted(*args: Any, **rest: Any) -> Any:
        found = generate(*args, **rest)
        sizes[:] = [len(row) for row in found[0]]
        turns.facts = {"completion_tokens": sum(sizes) / len(sizes)}
        return found

    trainer._generate_single_turn = counted
    trainer.train()


def trl_sft(folder: Path, turns: Turns, options: dict[str, Any]) -> None:
    """Run TRL's SFTTrainer on the same rows in the same order."""
    tokenizer = load_tokenizer(folder)
    made = sequences(len(tokenizer))
    rows = [made[n] for numbers in batches_of(len(made), supervised_params()) for n in numbers]
    data = [
        {
            "input_ids": [*row.prompt_ids, *row.completion_ids],
            "completion_mask": [0] * len(row.prompt_ids) + [1] * len(row.completion_ids),
        }
        for row in rows
    ]
    config = trl.SFTConfig(
        **trl_common(folder, BATCH_SIZE, options),
        completion_only_loss=True,
        train_sampling_strategy="sequential",
        **options,
    )
    trainer = trl.SFTTrainer(
        model=str(folder),
        args=config,
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer,
        callbacks=[trl_turns(turns)],
    )
    trainer.train()


def trl_common(
    folder: Path, batch_size: int, options: dict[str, Any], rate: float = LEARNING_RATE
) -> dict[str, Any]:
    """Return what both of TRL's trainers are given."""
    micro_batch = options.pop("micro_batch_size", batch_size)
    device = options.pop("device", "cpu")
    return {
        "output_dir": str(folder / "trl"),
        "use_cpu": device == "cpu",
        "bf16": options.pop("bf16", False),
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": batch_size // micro_batch,
        "learning_rate": rate,
        "lr_scheduler_type": "constant",
        "adam_beta2": 0.95,
        "max_steps": MAX_STEPS,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 1,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
    }


def trl_turns(turns: Turns) -> Any:
    """Return a callback that makes every step of a trainer a turn."""

    class Steps(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            turns.next()

        def on_log(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            logs = rest.get("logs") or {}
            kept = {"loss": "loss", "frac_reward_zero_std": "flat_group_frac"}
            turns.facts |= {ours: float(logs[t]) for t, ours in kept.items() if t in logs}

    return Steps()
