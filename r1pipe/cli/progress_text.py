"""What a run says of its stages, as text: the numbers that matter, places, results."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from r1pipe.text import format_duration, format_number, short_id, visible

if TYPE_CHECKING:
    from r1pipe.pipeline.planning import Plan

LABELS: Mapping[str, str] = {
    "loss": "loss",
    "reward": "reward",
    "pass_rate": "pass rate",
    "completion_tokens": "length",
    "flat_group_frac": "flat groups",
    "kl": "KL",
    "teacher_kl": "KL to the teacher",
    "kept": "kept",
    "failed_units": "units failed",
    "forecast_rows": "in the end",
    "target_tokens": "tokens to go",
    "tokens_per_s": "tokens/s",
}
"""Metric -> its label, the most telling first."""
BEHIND = frozenset({"kept", "failed_units", "forecast_rows", "target_tokens", "tokens_per_s"})
"""Labels that stand behind their number on a line."""
RESULTS = ("loss", "reward", "pass_rate", "teacher_kl", "kept")
"""Those of them that say how a stage ended."""
COUNTS = {"num_problems": "problems", "rows": "rows", "num_rows": "rows", "vocab_size": "tokens"}
"""Fact -> what it counts; the first one that a stage noted is its result."""
MAX_VALUES = 4


def telling(values: Mapping[str, float]) -> list[str]:
    """Return the names of the values worth a place: the well-known ones, else the first few.

    The loss of a policy gradient says nothing, so where there is a reward it is left out; where a
    teacher takes the reward's place, so are the reward and the reference's KL.
    """
    known = [name for name in LABELS if name in values]
    dropped = {"loss"} if "reward" in known else set[str]()
    dropped |= {"reward", "kl"} if "teacher_kl" in known else set()
    known = [name for name in known if name not in dropped]
    return known or list(values)[:MAX_VALUES]


def values_text(values: Mapping[str, float]) -> str:
    """Return the values worth a place on a line."""
    return "  ".join(_value_text(name, values[name]) for name in telling(values))


def _value_text(name: str, value: float) -> str:
    label, number = LABELS.get(name, visible(name)), format_number(value)
    return f"{number} {label}" if name in BEHIND else f"{label} {number}"


def result_text(kind: str, values: Mapping[str, float], facts: Mapping[str, object]) -> str:
    """Return what came out of a stage, and why nothing was learned if that is so."""
    result = _result(kind, values, facts)
    if not isinstance(reason := facts.get("nothing_learned"), str):
        return result
    return "  ".join(filter(None, (result, f"NOTHING WAS LEARNED:\n  {reason}")))


def _result(kind: str, values: Mapping[str, float], facts: Mapping[str, object]) -> str:
    """Return scores, the last step's values, or how many rows there are."""
    if kind == "evaluate":
        scores = {name: value for name, value in facts.items() if isinstance(value, float)}
        shown = {name: value for name, value in scores.items() if value} or scores
        text = ", ".join(f"{visible(name)} {value:.3f}" for name, value in shown.items())
        return f"pass@1 {text}" if text else ""
    if results := {name: values[name] for name in telling(values) if name in RESULTS}:
        short = facts.get("rows_short_of_target")
        is_short = isinstance(short, int) and short > 0
        return values_text(results) + (f"  {short:,} short of target_rows" if is_short else "")
    if kind == "mix":  # a fact for each part
        parts = [n for name, n in facts.items() if name.endswith("_rows") and isinstance(n, int)]
        return f"{sum(parts):,} rows" if parts else ""
    for name, what in COUNTS.items():
        if isinstance(count := facts.get(name), int):
            return f"{count:,} {what}"
    return ""


def finished_text(name: str, status: str, seconds: float, artifact: str | None, result: str) -> str:
    """Return the line that ends a stage."""
    parts = [f"{name}: {status} in {format_duration(seconds)}"]
    parts += [short_id(artifact)] if artifact else []
    parts += [result] if result and status == "done" else []
    return "  ".join(parts)


def doing_text(what: str, done: int, total: int) -> str:
    """Return how far the work inside a step has come."""
    return f"{what} {done:,}/{total:,}"


class Places:
    """Which of a plan's stages each one is, and of what kind."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._kinds: dict[str, str] = {}

    def take(self, plan: Plan) -> None:
        """Number the stages of a plan."""
        self._numbers = {stage.name: place for place, stage in enumerate(plan.stages, start=1)}
        self._kinds = {stage.name: stage.kind for stage in plan.stages}

    def text(self, name: str) -> str:
        """Return a stage's place, as `stage 9 of 34`; nothing if it is alone or not planned."""
        count = len(self._numbers)
        return (
            f"stage {self._numbers[name]} of {count}" if name in self._numbers and count > 1 else ""
        )

    def kind(self, name: str) -> str:
        """Return a stage's kind; nothing if it is not planned."""
        return self._kinds.get(name, "")


@dataclass
class Pace:
    """How far a stage is and how fast it goes; its first step here may not be its first at all."""

    started: float = field(default_factory=lambda: time.monotonic())
    first_step: int = 0
    first_stepped: float = 0.0
    """When that was reported: imports and loading before it are no measure of a step."""
    step: int = 0
    total: int | None = None
    stepped: float = 0.0
    """When the latest step was reported."""

    def take(self, step: int, total: int | None) -> None:
        """Note a step."""
        self.step, self.total, self.stepped = step, total, time.monotonic()
        if not self.first_step:
            self.first_step, self.first_stepped = step, self.stepped

    def spent(self) -> float:
        """Return the seconds since the stage began."""
        return time.monotonic() - self.started

    def left(self) -> float | None:
        """Return the seconds that the other steps will take; None where nothing tells."""
        if not self.total or self.step >= self.total or self.step <= self.first_step:
            return None
        per_step = (self.stepped - self.first_stepped) / (self.step - self.first_step)
        return max(0.0, per_step * (self.total - self.step) - (time.monotonic() - self.stepped))
