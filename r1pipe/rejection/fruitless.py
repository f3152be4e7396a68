"""What becomes of candidates as long as none is kept: counts by filter, and three of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from r1pipe.audit.reasons import example_lines, reason_of
from r1pipe.candidates.candidate import FAILED
from r1pipe.errors import Paused
from r1pipe.keys import JsonObject
from r1pipe.stage import Context

NUM_EXAMPLES = 3


class Fruitless:
    """Follows the candidates of a stage until the first one passes every filter."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        """Candidates sampled by this start of the stage after which it pauses; None: never."""
        self.is_watching = True
        self.num_rows = self.num_sampled = 0
        self.filters: Counter[str] = Counter()
        self.verdicts: Counter[str] = Counter()
        self.examples: list[JsonObject] = []

    def add(self, rows: Sequence[JsonObject], is_sampled: bool) -> None:
        """Count the candidates of a unit; `is_sampled` is False for one that was replayed.

        One without a verdict ends the watch as one that is kept does: a judge may keep it yet.
        """
        if any(row["kept"] or row["verdict"] in FAILED for row in rows):
            self.is_watching = False
            return
        self.num_rows += len(rows)
        self.num_sampled += len(rows) if is_sampled else 0
        for row in rows:
            self.verdicts[row["verdict"]] += 1
            decisions = json.loads(row["filters"]).items()
            self.filters.update(name for name, passed in decisions if not passed)
        step = max(1, len(rows) // NUM_EXAMPLES)
        self.examples = self.examples or list(rows[::step][:NUM_EXAMPLES])

    def check(self, context: Context) -> None:
        """Raise Paused when too many candidates came without one that is kept."""
        if not self.is_watching or self.limit is None or self.num_sampled < self.limit:
            return
        self.keep_samples(context)
        raise Paused(
            f"{context.name}: {self.text()}\nIt paused by run.stop_without_rows ({self.limit}):"
            " the same command samples as many again, and `run: {stop_without_rows: null}` goes on"
            " to the end"
        )

    def text(self) -> str:
        """Return the counts by filter and the examples, safe for a terminal."""
        if not self.examples:
            return "none of the completions was kept; see the filters of its candidates."
        found = ", ".join(f"{count} {name}" for name, count in self.verdicts.most_common())
        dropped = ", ".join(f"{name} {count}" for name, count in self.filters.most_common())
        lines = [
            f"none of {self.num_rows} completions was kept ({found}).",
            f"Dropped by filter: {dropped}. Some of them:",
        ]
        for row in self.examples:
            lines += example_lines(row["prompt"], row["completion"], verdicts_of(row))
        return "\n".join(lines)

    def keep_samples(self, context: Context) -> None:
        """Keep the examples for `r1pipe show`."""
        for row in self.examples:
            context.sample(
                prompt=row["prompt"],
                completion=row["completion"],
                gold=row["gold"],
                decided=verdicts_of(row),
            )


def verdicts_of(row: JsonObject) -> str:
    """Return the reason of a candidate's verdict and what each filter decided."""
    decisions: dict[str, bool] = json.loads(row["filters"])
    reason = reason_of(
        row["completion"], row["gold"], row["verdict"], row["finish_reason"], row["format"]
    )
    dropped = ", ".join(name for name, passed in decisions.items() if not passed)
    passed = ", ".join(name for name, passed in decisions.items() if passed)
    return f"{reason}; dropped by {dropped or 'none'}; passed {passed or 'none'}"
