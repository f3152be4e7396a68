"""When rollouts were sampled and when the policy trained on them, with `params.staleness`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from r1pipe.text import format_duration, visible

FACT = "timeline"
"""What a stage notes: a row for each of its last rollouts."""
MAX_DRAWN = 24
"""Rollouts, the last ones, that a picture has room for."""
LEFT, WIDTH = 80.0, 860.0
"""Of a picture's plot, in pixels."""
MAX_TICKS = 6
"""Ticks after the first one."""
STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400)
"""Seconds between two ticks; above these 8 hours and their doubles."""
LABEL_WIDTH = 16.0
"""Least width of a bar under which its number fits, in pixels."""


@dataclass(frozen=True)
class Span:
    """A time in seconds since the stage began to sample."""

    since: float
    until: float

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.until - self.since


@dataclass(frozen=True)
class Turn:
    """One rollout: when it was sampled, and when it was trained on."""

    number: int
    sampled: Span
    trained: Span


@dataclass(frozen=True)
class Bar:
    """What one rollout took of a lane, in pixels; `label` is empty where none fits."""

    x: float
    width: float
    label: str


@dataclass(frozen=True)
class Timeline:
    """The turns of a stage, in their order, and the shares of the time that they took."""

    stage: str
    turns: list[Turn]

    @property
    def whole(self) -> Span:
        """From the first sampling to the end of the last training."""
        return Span(self.turns[0].sampled.since, max(turn.trained.until for turn in self.turns))

    @property
    def summary(self) -> str:
        """The shares in words."""
        seconds = self.whole.seconds or 1.0
        sampled, trained = [t.sampled for t in self.turns], [t.trained for t in self.turns]
        shares = [
            sum(each.seconds for each in sampled) / seconds,
            sum(each.seconds for each in trained) / seconds,
            both_s(sampled, trained) / seconds,
        ]
        sampling, training, both = (f"{share:.0%}".replace("%", " %") for share in shares)
        return (
            f"both sampling and training {both} of the time, sampling {sampling}, training"
            f" {training} (rollouts {self.turns[0].number} to {self.turns[-1].number},"
            f" {format_duration(self.whole.seconds)})"
        )

    @property
    def drawn(self) -> Timeline:
        """The last turns, as many as a picture has room for."""
        return Timeline(self.stage, self.turns[-MAX_DRAWN:])

    @property
    def lanes(self) -> list[tuple[str, list[Bar]]]:
        """A lane of bars for the sampler, and one for the trainer."""
        return [
            ("sampling", [self._bar(turn, turn.sampled) for turn in self.turns]),
            ("training", [self._bar(turn, turn.trained) for turn in self.turns]),
        ]

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places on the axis, in pixels, and the time since the first sampling at each."""
        seconds = self.whole.seconds or 1.0
        step = next((s for s in STEPS_S if seconds / s <= MAX_TICKS), 28800.0)
        while seconds / step > MAX_TICKS:
            step *= 2
        times = [step * number for number in range(int(seconds / step) + 1)]
        return [(LEFT + WIDTH * time / seconds, format_duration(time)) for time in times]

    def _bar(self, turn: Turn, span: Span) -> Bar:
        scale = WIDTH / (self.whole.seconds or 1.0)
        x, width = LEFT + (span.since - self.whole.since) * scale, span.seconds * scale
        return Bar(x, max(width - 1.0, 1.0), str(turn.number) if width >= LABEL_WIDTH else "")


def both_s(ones: Sequence[Span], others: Sequence[Span]) -> float:
    """Return the seconds that spans of two sorts have in common; those of one sort are apart."""
    common, one, other = 0.0, 0, 0
    while one < len(ones) and other < len(others):
        a, b = ones[one], others[other]
        common += max(0.0, min(a.until, b.until) - max(a.since, b.since))
        if a.until <= b.until:
            one += 1
        else:
            other += 1
    return common


def timeline_of(stage: str, facts: Mapping[str, object]) -> Timeline | None:
    """Return the timeline that a stage noted, if any; rows that are none are left out."""
    noted = facts.get(FACT)
    turns = list(_turns(noted)) if isinstance(noted, list) else []
    return Timeline(visible(stage), turns) if turns else None


def _turns(rows: Sequence[object]) -> Iterator[Turn]:
    names = "rollout", "sampled_from", "sampled_to", "trained_from", "trained_to"
    for row in rows:
        values = [row.get(name) for name in names] if isinstance(row, Mapping) else []
        found = [float(v) for v in values if isinstance(v, int | float) and math.isfinite(v)]
        if len(found) == len(names) and found[1:] == sorted(found[1:]):
            yield Turn(int(found[0]), Span(*found[1:3]), Span(*found[3:5]))
