"""Advantages inside a group.

# P prompts, G group_size
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

EPS = 1e-8
Scale = Literal["population", "none"]


def group_advantages(rewards: Tensor, scale: Scale = "population") -> Tensor:
    """Return (r - mean) / std of each group (arXiv:2402.03300, section 4.1.2).  [P, G] -> [P, G]

    `rewards` are float64: equal float32 rewards of 0.1 do not centre to zero, and the division
    would blow the rest up. A group of equal rewards has advantage exactly zero. `none` leaves the
    division out (Dr. GRPO, arXiv:2503.20783): it over-weights very easy and very hard problems.
    """
    assert rewards.dtype == torch.float64, "rewards must be float64"
    is_flat = rewards.max(dim=1, keepdim=True).values == rewards.min(dim=1, keepdim=True).values
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    if scale == "population":
        centred = centred / (rewards.std(dim=1, keepdim=True, correction=0) + EPS)
    return torch.where(is_flat, torch.zeros_like(centred), centred)
