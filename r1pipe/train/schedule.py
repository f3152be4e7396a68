"""The learning rate of each update."""

from __future__ import annotations

import math

from r1pipe.settings import Optimizer


def learning_rate(step: int, num_steps: int, optimizer: Optimizer) -> float:
    """Return the rate of update `step` of `num_steps`, from 0.

    A linear warm-up, then the peak, or a cosine that ends at `final_lr_frac` of the peak (R1: 5e-5
    to 5e-6, so 0.1).
    """
    peak, warmup_steps, end = optimizer.lr, optimizer.warmup_steps, optimizer.final_lr_frac
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if optimizer.schedule == "constant":
        return peak
    span = max(1, num_steps - warmup_steps - 1)
    progress = min(1.0, (step - warmup_steps) / span)
    return peak * (end + (1 - end) * 0.5 * (1 + math.cos(math.pi * progress)))
