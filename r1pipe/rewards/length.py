"""A soft limit on length: full reward up to a point, then falling linearly to nothing.

The shape is DAPO's overlong penalty (arXiv:2503.14476, equation 13), shifted into [0, 1].
"""

from __future__ import annotations

from r1pipe.records import Problem

DEFAULT_MAX_CHARS = 100_000
BUFFER_FRAC = 0.2


def length(problem: Problem, text: str) -> float:
    """Return 1.0 for short completions, falling to 0.0 at `meta["max_chars"]` characters."""
    limit = int(problem.meta.get("max_chars", DEFAULT_MAX_CHARS))
    return soft_overlong(len(text), limit, int(limit * BUFFER_FRAC))


def soft_overlong(size: int, limit: int, buffer: int) -> float:
    """Return 1 up to `limit - buffer`, 0 from `limit` on, linear between.

    >>> soft_overlong(90, 100, 20)
    0.5
    """
    if size >= limit:
        return 0.0
    return min(1.0, (limit - size) / buffer) if buffer else 1.0
