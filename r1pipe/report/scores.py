"""The scoreboard as dots with intervals, and what each stage bought."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from r1pipe.keys import JsonObject
from r1pipe.text import display_width, visible

if TYPE_CHECKING:
    from r1pipe.store.actions import ActionRecord
    from r1pipe.store.store import Store

MEASURE = "pass@1"
MAX_LABEL = 34
"""Columns of a model's name beside its dot; what is longer is cut there and whole in words."""
COLUMN, LEAST_LABEL = 8.0, 130.0
"""Pixels for each column of the longest name, with room to its right; the least for all."""


@dataclass(frozen=True)
class Dot:
    """A value with its 95 % interval, on an axis from 0 to 1."""

    label: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Panel:
    """The dots of one benchmark, a model each."""

    title: str
    dots: list[Dot]
    is_rough: bool
    """Few problems: the interval itself is rough."""


@dataclass(frozen=True)
class Bought:
    """The paired difference of one model to the one before it."""

    model: str
    before: str
    benchmark: str
    score: str
    dot: Dot

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval does not hold zero."""
        return self.dot.low > 0 or self.dot.high < 0


@dataclass(frozen=True)
class Board:
    """A scoreboard."""

    panels: list[Panel]
    """Those in which some model solved something."""
    unsolved: list[str]
    """Titles of those that are zero for every model."""
    bought: list[Bought]
    """In the order of the models; those that differ in nothing are in `same`."""
    same: list[str]
    """Scores in which no two models differ on any problem, then single pairs with their scores."""


def label_width(dots: Sequence[Dot]) -> float:
    """Return the pixels that the names of some dots need on their left."""
    columns = max((display_width(dot.label) for dot in dots), default=0)
    return max(LEAST_LABEL, COLUMN * min(columns, MAX_LABEL) + 10)


def board_of(records: Mapping[str, ActionRecord], store: Store) -> Board | None:
    """Return the last scoreboard among the results; None if there is none whose data is here."""
    for record in reversed(list(records.values())):
        if record.kind != "scoreboard" or not store.has_artifact(record):
            continue
        path = store.output_dir(record, "report") / "scoreboard.json"
        if path.is_file():
            board = json.loads(path.read_text(encoding="utf-8"))
            if board.get("values"):
                panels = list(_panels(board))
                solved = [panel for panel in panels if any(dot.value for dot in panel.dots)]
                unsolved = [panel.title for panel in panels if panel not in solved]
                pairs = list(_bought(board))
                bought = [pair for pair in pairs if pair.dot.low or pair.dot.high]
                return Board(solved, unsolved, bought, _same(pairs, bought))
    return None


def _panels(board: JsonObject) -> Iterator[Panel]:
    models = [name for name in board["models"] if name in board["values"]]
    benchmarks = dict.fromkeys(b for name in models for b in board["values"][name])
    for benchmark in benchmarks:
        dots = [
            _dot(name, measures[MEASURE])
            for name in models
            if (measures := board["values"][name].get(benchmark)) and MEASURE in measures
        ]
        if dots:
            yield Panel(visible(f"{benchmark}: {MEASURE}"), dots, benchmark in board["rough"])


def _same(pairs: Sequence[Bought], bought: Sequence[Bought]) -> list[str]:
    """Return where nothing differs: scores that never do, and pairs of models by score."""
    scores = dict.fromkeys(f"{pair.benchmark} {pair.score}" for pair in pairs)
    differing = {f"{pair.benchmark} {pair.score}" for pair in bought}
    named: dict[str, list[str]] = {}
    for pair in pairs:
        if pair not in bought and (score := f"{pair.benchmark} {pair.score}") in differing:
            named.setdefault(score, []).append(f"{pair.model} and {pair.before}")
    alone = [f"{score} ({', '.join(models)})" for score, models in named.items()]
    return [*(f"{score} (all)" for score in scores if score not in differing), *alone]


def _bought(board: JsonObject) -> Iterator[Bought]:
    for model in board["models"]:
        if (paired := board["paired"].get(model)) is None:
            continue
        for benchmark, differences in sorted(paired["differences"].items()):
            for score, found in sorted(differences.items()):
                if found is not None:
                    yield Bought(
                        model=visible(model),
                        before=visible(paired["before"]),
                        benchmark=visible(benchmark),
                        score=visible(score),
                        dot=_dot(model, found),
                    )


def _dot(label: str, found: JsonObject) -> Dot:
    value = found["value"] if "value" in found else found["mean"]
    return Dot(visible(label), float(value), float(found["low"]), float(found["high"]))
