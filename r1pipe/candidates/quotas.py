"""Quotas: most kept rows by task, level and length."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

from pydantic import Field

from r1pipe.records import Problem
from r1pipe.stage import StageModel


class LengthQuota(StageModel):
    """A bound on the kept rows of one range of lengths."""

    up_to_tokens: int = Field(gt=0)
    """The range ends here (included) and begins after the next smaller one."""
    max_rows: int = Field(ge=0)
    """Most kept rows in it."""


class Quotas(StageModel):
    """Most kept rows by task, level and length; what is not named is not bounded.

    They are numbers of rows, not shares of `target_rows`, so that a raised target goes on where
    the lower one ended.
    """

    tasks: dict[str, int] = Field(default_factory=dict)
    """Task -> most kept rows."""
    levels: dict[str, int] = Field(default_factory=dict)
    """Level (as text: `"3"`) -> most kept rows."""
    lengths: tuple[LengthQuota, ...] = ()
    """Ranges of completion lengths in tokens, in any order."""


class QuotaCounts:
    """Counts kept rows against the quotas."""

    def __init__(self, quotas: Quotas) -> None:
        self._bounds = sorted(item.up_to_tokens for item in quotas.lengths)
        self._limits: dict[tuple[str, str | int], int] = {
            **{("task", name): limit for name, limit in quotas.tasks.items()},
            **{("level", name): limit for name, limit in quotas.levels.items()},
            **{("length", self.length_range(q.up_to_tokens)): q.max_rows for q in quotas.lengths},
        }
        self._counts: Counter[tuple[str, str | int]] = Counter()

    def length_range(self, num_tokens: int) -> int:
        """Return the number of the range that a length falls into; the last one has no quota."""
        return bisect_left(self._bounds, num_tokens)

    def is_full(self, problem: Problem, length_range: int | None = None) -> bool:
        """Return whether a row of this problem (and length, if given) would be one too many."""
        return any(
            name in self._limits and self._counts[name] >= self._limits[name]
            for name in self._names(problem, length_range)
        )

    def add(self, problem: Problem, length_range: int, count: int = 1) -> None:
        """Count kept rows."""
        for name in self._names(problem, length_range):
            if name in self._limits:
                self._counts[name] += count

    def _names(self, problem: Problem, length_range: int | None) -> list[tuple[str, str | int]]:
        names: list[tuple[str, str | int]] = [("task", problem.task), ("level", str(problem.level))]
        return names if length_range is None else [*names, ("length", length_range)]
