"""Where candidates were lost: from problems to what was sampled, or read, to rows for training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from r1pipe.text import visible

if TYPE_CHECKING:
    from r1pipe.store.actions import ActionRecord

TOTALS = ("sampled", "candidates")
"""Facts that count all candidates: of a stage that sampled them, or of one that read them."""
PREFIXES = ("failed_", "dropped_")
"""Facts that count lost candidates: by the filter that refused them, or the choice against them."""
OUTPUT = "candidates"
"""The output of stages whose candidates are counted."""


@dataclass(frozen=True)
class Part:
    """So many candidates, and what became of them."""

    label: str
    count: int
    frac: float
    is_kept: bool

    @property
    def share(self) -> str:
        """The share as text; never 0 % of something, nor 100 % of less than all."""
        return share_text(self.frac)


@dataclass(frozen=True)
class Flow:
    """One stage's candidates; parts add up to `total`."""

    stage: str
    total: int
    problems: int | None
    set_aside: int
    """Problems whose gold answer cannot be verified; not among `problems`."""
    parts: list[Part]
    not_reached: int = 0
    """Of `problems`: never sampled, since there were rows enough."""
    without_rows: int | None = None
    """Of `problems`: sampled, but none of their candidates was kept."""

    @property
    def title(self) -> str:
        """How many completions, and of how many problems if that is known."""
        of = "" if self.problems is None else f" of {counted(self.num_sampled, 'problem')}"
        return counted(self.total, "completion") + of

    @property
    def summary(self) -> str:
        """All of it in words."""
        parts = [f"{part.label} {part.count:,} ({part.share})" for part in self.parts]
        aside = [f"{counted(count, 'problem')} {what}" for what, count in self.unused if count]
        return "; ".join([self.title, *aside, *parts])

    @property
    def num_sampled(self) -> int:
        """Problems that candidates are of."""
        return (self.problems or 0) - self.not_reached

    @property
    def unused(self) -> list[tuple[str, int]]:
        """Problems without candidates: why, and how many."""
        return [("not reached", self.not_reached), ("set aside", self.set_aside)]


def flow_of(stage: str, record: ActionRecord) -> Flow | None:
    """Return what became of a stage's candidates; None if it sampled and read none."""
    facts = record.facts
    total = next((facts[name] for name in TOTALS if isinstance(facts.get(name), int)), None)
    if not isinstance(total, int) or not isinstance(facts.get("kept"), int):
        return None
    outcomes = facts.get("problems")
    problems = sum(outcomes.values()) if isinstance(outcomes, Mapping) else outcomes
    without = facts.get("problems_without_rows")
    return Flow(
        visible(stage),
        total,
        problems if isinstance(problems, int) else None,
        int(facts.get("quarantined", 0)),
        list(_parts(record, total)) if total else [],
        int(outcomes.get("not_reached", 0)) if isinstance(outcomes, Mapping) else 0,
        without if isinstance(without, int) else None,
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


def share_text(frac: float) -> str:
    """Return a share in per cent with one decimal; what rounds to nothing or to all says so.

    >>> [share_text(frac) for frac in (0.0, 0.0001, 0.125, 0.9999, 1.0)]
    ['0.0 %', 'under 0.1 %', '12.5 %', 'over 99.9 %', '100.0 %']
    """
    if 0 < frac < 0.0005:
        return "under 0.1 %"
    if 0.9995 <= frac < 1:
        return "over 99.9 %"
    return f"{frac * 100:.1f} %"


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, in the plural unless it is one.

    >>> counted(1, "row"), counted(1200, "row")
    ('1 row', '1,200 rows')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
