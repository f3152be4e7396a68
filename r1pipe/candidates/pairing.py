"""Right and wrong completions of the same problem, as pairs or as labelled texts.

Rows are gone through twice: once for what is right and what is wrong, by number, and once for the
texts of those that were chosen. So memory does not grow with the length of the texts, but for pairs
whose other half is still to come.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import lcm
from typing import Literal, TypeAlias

from r1pipe.candidates.candidate import FAILED, identity
from r1pipe.records import FinishReason, Row

RightIf: TypeAlias = Literal["correct", "kept"]
CARRIED = ("problem_id", "task", "language", "format", "prompt", "messages")
"""Columns that a row made of others has from them, where they have it."""
GOOD_FROM = 0.5
"""The least label or score that counts as right."""


@dataclass
class Sides:
    """The numbers of the distinct rows of one problem, those that are right and those not."""

    right: list[int] = field(default_factory=list)
    wrong: list[int] = field(default_factory=list)


@dataclass
class SortedRows:
    """All problems in the order of their first rows, and what became of the rows."""

    problems: dict[str, Sides] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    """Rows `right`, `wrong`, `repeats`, `truncated`, `undecided` (their verdict says nothing), and
    `dropped` (correct, but not kept)."""

    def facts(self) -> dict[str, int]:
        """Return how many problems have what, and how many rows are what."""
        kinds = Counter(
            "with_both" if each.right and each.wrong else "all_right" if each.right else
            "all_wrong" if each.wrong else "with_neither"
            for each in self.problems.values()
        )  # fmt: skip
        return {**self.counts, "problems": len(self.problems), **kinds}


def sorted_out(rows: Iterable[Row], right_if: RightIf) -> SortedRows:
    """Read candidates, or rows with a label, and tell right from wrong.

    A text that came before for the same problem is left out, and so is one that was cut at the
    token limit: it does not end as a completion ends.
    """
    found, seen = SortedRows(), dict[str, set[bytes]]()
    for number, row in enumerate(rows):
        side, problem = _side(row, right_if), problem_of(row)
        sides = found.problems.setdefault(problem, Sides())
        rows_of = {"right": sides.right, "wrong": sides.wrong}.get(side)
        if rows_of is not None:
            mark, of_problem = identity(row), seen.setdefault(problem, set())
            if mark in of_problem:
                side = "repeats"
            else:
                of_problem.add(mark)
                rows_of.append(number)
        found.counts[side] += 1
    return found


def problem_of(row: Row) -> str:
    """Return what tells the problem of a row: its id, if it has one, and its prompt."""
    return f"{row.get('problem_id') or ''}:{row['prompt']}"


def _side(row: Row, right_if: RightIf) -> str:
    if "verdict" not in row:
        value = row["label"] if "label" in row else row["is_safe"]
        return "right" if float(value) >= GOOD_FROM else "wrong"
    if row["verdict"] in FAILED:
        return "undecided"
    if row.get("finish_reason") == FinishReason.LENGTH:
        return "truncated"
    if row["verdict"] == "correct":
        return "right" if right_if == "correct" or row["kept"] else "dropped"
    return "wrong"


def pairs_of(sides: Sides, limit: int, seed: str) -> list[tuple[int, int]]:
    """Return at most so many different (right, wrong) pairs of one problem.

    Both sides are shuffled by the seed and gone around together, so that no row is used a second
    time before every other one of its side is.
    """
    rng, right, wrong = random.Random(seed), list(sides.right), list(sides.wrong)
    rng.shuffle(right)
    rng.shuffle(wrong)
    if not right or not wrong:
        return []
    turn = lcm(len(right), len(wrong))  # after so many the same pairs would come again
    return [
        (right[i % len(right)], wrong[(i + i // turn) % len(wrong)])
        for i in range(min(limit, len(right) * len(wrong)))
    ]


def labels_of(sides: Sides, limit: int, seed: str) -> dict[int, float]:
    """Return the labels of at most so many rows of one problem: as many right as wrong ones (one
    more if the limit is odd), as far as there are."""
    rng, right, wrong = random.Random(seed), list(sides.right), list(sides.wrong)
    rng.shuffle(right)
    rng.shuffle(wrong)
    count = min(limit, len(right) + len(wrong))
    half = max(count - len(wrong), min(len(right), (count + 1) // 2))
    return {**dict.fromkeys(right[:half], 1.0), **dict.fromkeys(wrong[: count - half], 0.0)}


def pair_rows(rows: Iterable[Row], pairs: Sequence[tuple[int, int]]) -> Iterator[Row]:
    """Yield the pairs as rows, each when the second of its texts has been read."""
    partners: dict[int, list[int]] = {}
    for number, pair in enumerate(pairs):
        for place in pair:
            partners.setdefault(place, []).append(number)
    waiting: dict[int, Row] = {}
    for place, row in enumerate(rows):
        for number in partners.get(place, ()):
            if (other := waiting.pop(number, None)) is None:
                waiting[number] = row
            elif pairs[number][0] == place:
                yield _pair(row, other)
            else:
                yield _pair(other, row)


def _pair(right: Row, wrong: Row) -> Row:
    carried = {name: right[name] for name in CARRIED if name in right}
    ids = {"chosen_id": right["id"], "rejected_id": wrong["id"]} if "id" in right else {}
    return {**carried, "chosen": right["completion"], "rejected": wrong["completion"], **ids}


def label_rows(rows: Iterable[Row], labels: Mapping[int, float]) -> Iterator[Row]:
    """Yield the rows of these numbers with their labels, in their order."""
    for number, row in enumerate(rows):
        if number in labels:
            carried = {name: row[name] for name in CARRIED if name in row}
            ids = {"candidate_id": row["id"]} if "id" in row else {}
            yield {**carried, "completion": row["completion"], "label": labels[number], **ids}
