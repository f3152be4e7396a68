"""Where candidates were lost: from what was sampled, or read, to the rows for training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from r1pipe.text import visible

if TYPE_CHECKING:
    from r1pipe.store.actions import ActionRecord

PREFIXES = ("failed_", "dropped_")
"""Facts that count lost candidates: by the filter that refused them, or the choice against them."""


@dataclass(frozen=True)
class Part:
    """So many candidates, and what became of them."""

    label: str
    count: int
    frac: float
    is_kept: bool


@dataclass(frozen=True)
class Flow:
    """One stage's candidates; parts add up to `total`."""

    stage: str
    total: int
    problems: int | None
    set_aside: int
    """Problems whose gold answer cannot be verified."""
    parts: list[Part]


def flow_of(stage: str, record: ActionRecord) -> Flow | None:
    """Return what became of a stage's candidates; None if it sampled none."""
    facts = record.facts
    total = facts.get("sampled")
    if not isinstance(total, int) or not total or "kept" not in facts:
        return None
    outcomes = facts.get("problems")
    problems = sum(outcomes.values()) if isinstance(outcomes, Mapping) else outcomes
    return Flow(
        visible(stage),
        total,
        problems if isinstance(problems, int) else None,
        int(facts.get("quarantined", 0)),
        list(_parts(record, total)),
    )


def _parts(record: ActionRecord, total: int) -> Iterator[Part]:
    """Yield the lost ones, most first, then the kept ones."""
    lost = {
        name: count
        for name, count in record.facts.items()
        if name.startswith(PREFIXES) and isinstance(count, int) and count
    }
    for name, count in sorted(lost.items(), key=lambda item: -item[1]):
        what, _, why = name.partition("_")
        yield Part(visible(f"{what}: {why.replace('_', ' ')}"), count, count / total, False)
    kept = record.facts["kept"]
    yield Part("kept", kept, kept / total, True)
