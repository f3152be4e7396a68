"""What a device computes at most, and what a row of SFT needs by r1pipe's own count."""

from __future__ import annotations

import re
from collections.abc import Iterable

from r1pipe.costs.models import forward_flops
from r1pipe.costs.work import ModelInfo
from r1pipe.records import TokenSequence

PEAKS: dict[str, tuple[float, str]] = {
    "A100": (312, r"\bA100\b"),
    "H100 SXM": (989, r"\bH100\b.*\bHBM3$"),
    "H200": (989, r"\bH200$"),
    "B200": (2250, r"\bB200$"),
    "L40S": (362, r"\bL40S$"),
    "RTX 4090": (165, r"\bRTX 4090$"),
}
"""Device -> TFLOP/s of dense products in bfloat16 by NVIDIA's data sheets (where they give the rate
with sparsity, half of it), and how torch.cuda.get_device_name ends or contains it."""


def peak_of(name: str) -> float | None:
    """Return a device's peak in TFLOP/s, or None: PCIe, NVL and laptop forms are slower, and a MIG
    slice is a part of its device.

    >>> peak_of("NVIDIA H100 80GB HBM3"), peak_of("NVIDIA H100 PCIe")
    (989, None)
    """
    if "MIG" in name:
        return None
    return next((peak for peak, form in PEAKS.values() if re.search(form, name)), None)


def row_flops(model: ModelInfo, row: TokenSequence) -> float:
    """Return the operations of forward and backward over one row, without padding.

    Backward is twice forward (arXiv:2001.08361, section 2.1). A token has half the row before it on
    average. The head is counted at trained tokens only: no loss needs the others, and counting them
    would flatter.
    """
    tokens, width = len(row), 2 * model.hidden_size * model.vocab_size
    return 3 * (tokens * forward_flops(model, tokens / 2) - (tokens - row.num_trained) * width)


def utilisation(flops: float, seconds: float, peak_tflops: float) -> float:
    """Return which share of a peak so many operations in so many seconds are."""
    return flops / seconds / (peak_tflops * 1e12)


def step_flops(model: ModelInfo, rows: Iterable[TokenSequence]) -> float:
    """Return the operations of one step."""
    return sum(row_flops(model, row) for row in rows)
