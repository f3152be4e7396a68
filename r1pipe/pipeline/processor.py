"""Which processor computes: training rounds otherwise on another kind.

A name alone does not tell: many virtual machines call several generations of Xeon the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from r1pipe.machine import CPUINFO, cpu_name

DECIDING = frozenset(
    {"avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "asimd", "sve", "sve2", "i8mm"}
)
"""Instruction sets, as Linux names them, in which generations differ."""


def instructions() -> list[str]:
    """Return which of the deciding instruction sets this processor has; none if unknown."""
    with suppress(OSError):
        for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return sorted(DECIDING.intersection(value.split()))
    return []


def is_here(name: str, listed: Sequence[str]) -> bool:
    """Return whether this processor has the name, and the instruction sets if any are listed."""
    return name == cpu_name() and (not listed or list(listed) == instructions())
