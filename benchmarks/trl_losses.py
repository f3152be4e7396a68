"""The GRPO loss and its gradient against TRL's on one batch.

usage: PYTHONPATH=.:tests python benchmarks/trl_losses.py [--write]

Needs TRL 1.16 beside r1pipe, in an environment of its own. Prints a table for docs/engines.md;
`--write` puts TRL's values into tests/trl_golden.json, which `tests/test_trl_losses.py` reads.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from fixed_batch import (
    AGGREGATIONS,
    CLIP_HIGH,
    CLIP_LOW,
    GOLDEN,
    KL_COEF,
    MAX_TOKENS,
    OTHERS,
    TEMPERATURE,
    our_loss,
    reference_rows,
    rollouts,
)
from tiny import tokenizer
from torch import Tensor
from trl_table import compare


def trl_inputs() -> dict[str, Tensor]:
    """Return the batch as TRL has it: prompts padded on the left, completions on the right."""
    made, pad = rollouts(), tokenizer().pad_token_id
    prompt_width = max(len(r.prompt_ids) for r in made)
    width = max(len(r.completion_ids) for r in made)

    def right(rows: Iterable[Sequence[float]], fill: Any) -> Tensor:
        return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])

    def left(rows: Iterable[Sequence[int]], fill: int) -> Tensor:
        return torch.tensor([[*[fill] * (prompt_width - len(row)), *row] for row in rows])

    ids = [r.completion_ids for r in made]
    mask = right([[1] * len(row) for row in ids], 0)
    return {
        "prompt_ids": left([r.prompt_ids for r in made], pad),
        "prompt_mask": left([[1] * len(r.prompt_ids) for r in made], 0),
        "completion_ids": right(ids, pad),
        "completion_mask": mask,
        "advantages": torch.tensor([r.streams["advantage"][0] for r in made]),
        "old_per_token_logps": right([r.streams["sampler_logprobs"] for r in made], 0.0),
        "ref_per_token_logps": right(reference_rows(), 0.0),
        "num_items_in_batch": mask.sum(),
    }


def trl_loss(name: str, folder: Path) -> tuple[float, dict[str, Tensor]]:
    """Return the loss and all gradients of TRL's trainer."""
    options: dict[str, Any] = {
        "bf16": False,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "loss_type": name,
        "epsilon_high": CLIP_HIGH,
    } | (OTHERS[name][0] if name in OTHERS else {})
    config = trl.GRPOConfig(
        output_dir=str(folder / "out"),
        beta=KL_COEF,
        use_bias_correction_kl=False,  # DeepSeek-V3.2's; R1 has the plain k3 term
        epsilon=CLIP_LOW,
        temperature=TEMPERATURE,
        max_completion_length=MAX_TOKENS,
        per_device_train_batch_size=8,
        num_generations=4,
        gradient_checkpointing=False,
        disable_tqdm=True,
        **options,
    )
    trainer = trl.GRPOTrainer(
        model=str(folder / "policy"),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": "x"}]),
        processing_class=tokenizer(),
    )
    trainer.current_gradient_accumulation_steps = 1
    model = trainer.model.float().train()
    loss = trainer._compute_loss(model, trl_inputs())
    loss.backward()
    return float(loss.detach()), {n: p.grad.clone() for n, p in model.named_parameters()}


def main(is_written: bool) -> None:
    """Print the table."""
    head = "float32, 8 rollouts, temperature 0.8"
    compare((*AGGREGATIONS, *OTHERS), trl_loss, our_loss, head, GOLDEN if is_written else None)


if __name__ == "__main__":
    main("--write" in sys.argv[1:])
