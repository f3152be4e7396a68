"""The DPO loss and its gradient against TRL's on one batch.

usage: PYTHONPATH=.:tests python benchmarks/trl_dpo.py [--write]

Needs TRL 1.16 beside r1pipe, in an environment of its own. Prints a table for docs/methods.md;
`--write` puts TRL's values into tests/trl_dpo_golden.json, which `tests/test_dpo.py` reads.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from fixed_pairs import BETA, GOLDEN, LOSSES, our_loss, pairs, reference_sums
from tiny import tokenizer
from torch import Tensor
from trl_table import compare


def trl_inputs() -> dict[str, Tensor]:
    """Return the pairs as TRL has them: all chosen, then all rejected, padded on the right."""
    made, pad = pairs(), tokenizer().pad_token_id
    texts = [pair[side] for side in (0, 1) for pair in made]
    width = max(map(len, texts))

    def padded(rows: list[list[int]], fill: int) -> Tensor:
        return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])

    sums = reference_sums().float()
    return {
        "input_ids": padded([[*t.prompt_ids, *t.completion_ids] for t in texts], pad),
        "attention_mask": padded([[1] * len(t) for t in texts], 0),
        "completion_mask": padded(
            [[0] * len(t.prompt_ids) + [1] * len(t.completion_ids) for t in texts], 0
        ),
        "ref_chosen_logps": sums[:, 0],
        "ref_rejected_logps": sums[:, 1],
    }


def trl_loss(name: str, folder: Path) -> tuple[float, dict[str, Tensor]]:
    """Return the loss and all gradients of TRL's trainer."""
    options: dict[str, Any] = {
        "bf16": False,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
    }
    config = trl.DPOConfig(
        output_dir=str(folder / "out"),
        loss_type=[name],
        beta=BETA,
        per_device_train_batch_size=len(pairs()),
        gradient_checkpointing=False,
        disable_tqdm=True,
        **options,
    )
    trainer = trl.DPOTrainer(
        model=str(folder / "policy"),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": "x", "chosen": "y", "rejected": "z"}]),
        processing_class=tokenizer(),
    )
    trainer.precompute_ref_logps = True  # those given are taken
    model = trainer.model.float().train()
    loss = trainer._compute_loss(model, trl_inputs(), return_outputs=False)
    loss.backward()
    return float(loss.detach()), {n: p.grad.clone() for n, p in model.named_parameters()}


def main(is_written: bool) -> None:
    """Print the table."""
    compare(LOSSES, trl_loss, our_loss, "float32", GOLDEN if is_written else None)


if __name__ == "__main__":
    main("--write" in sys.argv[1:])
