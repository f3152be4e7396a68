"""Learning-rate schedules: a fraction of the peak rate per step."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["constant", "cosine"]


def learning_rate(
    step: int, num_steps: int, peak: float, schedule: Schedule, warmup_steps: int, final_frac: float
) -> float:
    """Return the rate of update `step` (from 0): linear warm-up, then constant, or a cosine that
    ends at `final_frac` of the peak (R1: 5e-5 to 5e-6, so 0.1)."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "constant":
        return peak
    span = max(1, num_steps - warmup_steps - 1)
    progress = min(1.0, (step - warmup_steps) / span)
    return peak * (final_frac + (1 - final_frac) * 0.5 * (1 + math.cos(math.pi * progress)))
