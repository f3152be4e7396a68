"""Selection among candidates that pass every filter: each text once, within quotas and the target.

Decided in the candidates' order, so that a resumed stage decides alike, and written into them, so
that the rows for training are a view: those with `kept`. In memory are sixteen bytes per kept row,
however long the rows are. Any stage that writes candidates selects with `Selection`, and gives the
view with `kept_rows`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from r1pipe.candidates.candidate import identity, reason_dropped
from r1pipe.candidates.quotas import QuotaCounts, Quotas
from r1pipe.errors import StageError
from r1pipe.records import Problem, Row
from r1pipe.rows import read_rows

KEPT, OVER_QUOTA, BEYOND_TARGET = "kept", "dropped_quota", "dropped_target"
SELECTION = ("duplicate", "quota", "target")
"""Decisions about candidates that pass every filter, in the order in which they are taken."""


class Selection:
    """Takes the decisions that depend on earlier rows, and counts each row's outcome."""

    def __init__(self, quotas: Quotas, target_rows: int) -> None:
        self.counts: Counter[str] = Counter()
        self.quotas = QuotaCounts(quotas)
        self._target_rows = target_rows
        self._seen: set[bytes] = set()

    @property
    def num_kept(self) -> int:
        """Rows kept so far, those beyond the target included."""
        return len(self._seen)

    def select(self, row: Row, problem: Problem) -> str:
        """Return and count a candidate's outcome: kept, dropped_<why> or failed_<verdict>.

        `kept` must say whether it passes every filter. If it does, the decisions are written into
        its `filters`, and `kept` is what follows from them all.
        """
        outcome = self._outcome(row, problem) if row["kept"] else reason_dropped(row)
        if row["kept"]:
            row["filters"] = _with_selection(row["filters"], outcome)
            row["kept"] = outcome == KEPT
        self.counts[outcome] += 1
        return outcome

    def _outcome(self, row: Row, problem: Problem) -> str:
        """Decide on a candidate that passes every filter, and remember it if it is new."""
        mark = identity(row)
        if mark in self._seen:
            return "dropped_duplicate"
        length_range = self.quotas.length_range(row["num_tokens"])
        if self.quotas.is_full(problem, length_range):
            return OVER_QUOTA
        self._seen.add(mark)
        self.quotas.add(problem, length_range)
        return KEPT if len(self._seen) <= self._target_rows else BEYOND_TARGET


@lru_cache(maxsize=64)  # what passes every filter says the same, row after row
def _with_selection(filters: str, outcome: str) -> str:
    """Return a candidate's decisions, as JSON, with those of the selection among them."""
    decisions = json.loads(filters)
    decisions |= {name: outcome != f"dropped_{name}" for name in SELECTION}
    return json.dumps(decisions, sort_keys=True)


def kept_rows(name: str, candidates: Path, num_kept: int) -> Iterator[Row]:
    """Yield the rows for training from the shards of selected candidates, in their order.

    `name` is the stage's; raises StageError unless there are `num_kept`.
    """
    count = 0
    for count, row in enumerate(read_rows(candidates, only="kept"), start=1):  # noqa: B007
        yield row
    if count != num_kept:
        raise StageError(f"{name}: {num_kept} candidates are kept, but {count} rows found")
