"""On-policy distillation against TRL's on one batch: the loss and its gradient.

usage: PYTHONPATH=.:tests python benchmarks/trl_distil.py [--write]

Needs TRL 1.16 beside r1pipe, in an environment of its own. TRL sums the reverse KL over the
vocabulary; ours has the sampled token, and is asked about each token of the vocabulary once
(`tests/fixed_distil.py`). Prints a table for docs/methods.md; `--write` puts TRL's values into
tests/trl_distil_golden.json, which `tests/test_trl_losses.py` reads.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from fixed_batch import TEMPERATURE, policy
from fixed_distil import GOLDEN, LOSSES, TEACHER_SEED, completions, our_loss
from tiny import tokenizer
from torch import Tensor
from trl_table import compare

from r1pipe.models.policy import save_model


def trl_inputs() -> dict[str, Tensor]:
    """Return the batch as TRL has it: prompts padded on the left, completions on the right."""
    made, pad = completions(), tokenizer().pad_token_id
    before = max(len(each.prompt_ids) for each in made)
    after = max(len(each.completion_ids) for each in made)
    rows = [(before - len(each.prompt_ids), each.prompt_ids, each.completion_ids) for each in made]
    right = [(ids, after - len(ids)) for _, _, ids in rows]
    return {
        "prompt_ids": torch.tensor([[*[pad] * left, *ids] for left, ids, _ in rows]),
        "prompt_mask": torch.tensor([[0] * left + [1] * len(ids) for left, ids, _ in rows]),
        "completion_ids": torch.tensor([[*ids, *[pad] * room] for ids, room in right]),
        "completion_mask": torch.tensor([[1] * len(ids) + [0] * room for ids, room in right]),
    }


def trl_loss(name: str, folder: Path) -> tuple[float, dict[str, Tensor]]:
    """Return the loss and all gradients of TRL's trainer."""
    save_model(policy(seed=TEACHER_SEED), tokenizer(), folder / "teacher")
    options: dict[str, Any] = {"bf16": False, "use_cpu": True, "report_to": []}
    config = trl.DistillationConfig(
        output_dir=str(folder / "out"),
        beta=LOSSES[name],
        temperature=TEMPERATURE,
        per_device_train_batch_size=len(completions()),
        gradient_checkpointing=False,
        save_strategy="no",
        disable_tqdm=True,
        **options,
    )
    trainer = trl.DistillationTrainer(
        model=str(folder / "policy"),
        teacher_model=str(folder / "teacher"),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": "x"}]),
        processing_class=tokenizer(),
    )
    trainer.teacher_model.float()
    model, inputs = trainer.model.float().train(), trl_inputs()
    loss, _, _ = trainer._compute_loss(model, inputs, inputs["completion_mask"].sum())
    loss.backward()
    return float(loss.detach()), {n: p.grad.clone() for n, p in model.named_parameters()}


def main(is_written: bool) -> None:
    """Print the table."""
    tokens = sum(len(each.completion_ids) for each in completions())
    head = f"float32, {tokens} tokens, temperature {TEMPERATURE}"
    compare(LOSSES, trl_loss, our_loss, head, GOLDEN if is_written else None)


if __name__ == "__main__":
    main("--write" in sys.argv[1:])
