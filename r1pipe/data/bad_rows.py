"""Rows that cannot be used: counted by reason, with the first places."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from r1pipe.errors import StageError
from r1pipe.files import Record
from r1pipe.keys import JsonObject

MAX_PLACES = 10
"""Places named for each reason."""
MAX_BAD_FRAC = 0.01
"""The usual limit of `max_bad_frac`."""


@dataclass
class BadRows:
    """Counts of rows set aside, by reason."""

    counts: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)
    """The first places (`file:row`) of each reason."""

    def __len__(self) -> int:
        return self.counts.total()

    def add(self, record: Record, reason: str) -> None:
        """Count one row; a reason is a few words without the row's own text."""
        self.counts[reason] += 1
        places = self.places.setdefault(reason, [])
        if len(places) < MAX_PLACES:
            places.append(record.place)

    def check(
        self,
        max_bad_frac: float,
        num_read: int,
        source: Path,
        to_do: str = "correct the rows",
        parameter: str = "max_bad_frac",
    ) -> None:
        """Raise StageError if more than `max_bad_frac` of the rows that were read are bad."""
        if len(self) <= max_bad_frac * num_read:
            return
        raise StageError(
            f"{source}: {len(self)} of {num_read} rows cannot be used ({self.as_text()}); {to_do},"
            f" or raise {parameter} (now {max_bad_frac:g})"
        )

    def as_text(self) -> str:
        """Return the counts in words: `3 x empty prompt (first at a.jsonl:7)`."""
        return ", ".join(
            f"{count} x {reason} (first at {self.places[reason][0]})"
            for reason, count in self.counts.most_common()
        )

    def as_note(self) -> JsonObject:
        """Return the counts for a stage's report."""
        reasons = {
            reason: {"count": count, "first": list(self.places[reason])}
            for reason, count in self.counts.most_common()
        }
        return {"num_bad_rows": len(self), "bad_rows": reasons}
