"""The choice of rows under quotas: of the part, the task, the level and the length together."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from r1pipe.data.near import NearDuplicates
from r1pipe.data.survey import Survey


@dataclass(frozen=True)
class Limits:
    """Most rows of each part, task, level and length; others have no limit."""

    parts: Mapping[str, int]
    tasks: Mapping[str, int] = field(default_factory=dict)
    levels: Mapping[str, int] = field(default_factory=dict)
    lengths: Sequence[tuple[int, int]] = ()
    """(most characters of a completion, most rows), shortest first: a row counts in the first range
    that it fits in, and a longer one than all has no limit."""

    def only_parts(self) -> bool:
        """Return whether only the parts have limits."""
        return not (self.tasks or self.levels or self.lengths)


@dataclass
class Choice:
    """Rows by number, in the order in which they were chosen, and why the others were not."""

    rows: NDArray[np.int64]
    repeats: int
    """Rows equal to an earlier one of their part."""
    near: dict[str, int]
    """Near-duplicates by part."""
    duplicates: NDArray[np.int64]  # [N, 2]
    """Each near-duplicate, with the row that stays in its place."""
    over: dict[str, int]
    """Rows without room, by the quota that was full first (`task math`, `part general`)."""


def choose(
    survey: Survey,
    limits: Limits,
    near: NearDuplicates | None = None,
    threshold: float = 1.0,
    spread_seed: str | None = None,
) -> Choice:
    """Take rows one after the other while all their quotas have room.

    Their order is that of the parts, or with `spread_seed` a seeded one inside each part. Repeats,
    and what is near to a row before it, are left out first.
    """
    order = np.concatenate([_order(survey, part, spread_seed) for part in survey.parts])
    is_repeat = np.frombuffer(survey.repeats, np.uint8)[order] == 1
    order = order[~is_repeat]
    duplicates = np.zeros((0, 2), np.int64)
    if near is not None and len(order):
        first = near.duplicates(order, threshold)
        duplicates = np.stack([order, first], axis=1)[first >= 0]
        order = order[first < 0]
    near_counts = survey.part_of(np.sort(duplicates[:, 0])) if near is not None else {}
    rows, over = _with_room(survey, order, limits)
    return Choice(rows, int(is_repeat.sum()), near_counts, duplicates, over)


def _order(survey: Survey, part: str, spread_seed: str | None) -> NDArray[np.int64]:
    rows = survey.rows_of(part)
    if spread_seed is not None:
        numbers = rows.tolist()
        random.Random(f"{spread_seed}:{part}").shuffle(numbers)
        rows = np.array(numbers, np.int64)
    return rows


def _with_room(
    survey: Survey, order: NDArray[np.int64], limits: Limits
) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Return the rows that all their quotas have room for, and how many each quota refused."""
    room = _rooms(limits)
    refused: Counter[str] = Counter()
    chosen = []
    for row in order.tolist():
        names = _quotas_of(survey, row, limits)
        full = next((name for name in names if room[name] <= 0), None)
        if full is not None:
            refused[full] += 1
            continue
        for name in names:
            room[name] -= 1
        chosen.append(row)
    return np.array(chosen, np.int64), dict(sorted(refused.items()))


def _rooms(limits: Limits) -> dict[str, int]:
    sections: Iterable[tuple[str, Mapping[str, int]]] = (
        ("part", limits.parts),
        ("task", limits.tasks),
        ("level", limits.levels),
        ("length", {str(most): rows for most, rows in limits.lengths}),
    )
    return {f"{kind} {name}": rows for kind, given in sections for name, rows in given.items()}


def _quotas_of(survey: Survey, row: int, limits: Limits) -> list[str]:
    """Return the names of the quotas that a row counts in."""
    names = [f"part {survey.place_of(row)[0]}"]
    for label, named in (("task", limits.tasks), ("level", limits.levels)):
        if named and (value := survey.labels[label].of(row)) in named:
            names.append(f"{label} {value}")
    length = survey.completion_chars[row]
    end = next((most for most, _ in limits.lengths if length <= most), None)
    return [*names, f"length {end}"] if end is not None else names
