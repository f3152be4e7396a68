"""One pass over all rows of all parts that keeps what choosing among them needs, without text.

Lengths are in characters, or tokens where rows say so.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from r1pipe.candidates.candidate import identity
from r1pipe.records import Row
from r1pipe.rows import read_rows, shards_of

ROWS_PER_CHECK = 10_000
LABELS = ("task", "language", "format", "level", "model_id", "verifier_version")
"""Columns that are counted; the last three where a part has them."""


@dataclass
class Labels:
    """A column of few values, as codes."""

    codes: array[int] = field(default_factory=lambda: array("i"))
    values: dict[str, int] = field(default_factory=dict)

    def add(self, value: object) -> None:
        """Append a row's value; None is a value too."""
        self.codes.append(self.values.setdefault(str(value), len(self.values)))

    def of(self, row: int) -> str:
        """Return a row's value."""
        return list(self.values)[self.codes[row]]

    def counts(self, rows: NDArray[np.int64]) -> dict[str, int]:
        """Return {value: how many of these rows}, the most frequent first."""
        codes = np.frombuffer(self.codes, np.intc)[rows] if len(rows) else np.zeros(0, np.intc)
        counted = np.bincount(codes, minlength=len(self.values))
        pairs = zip(self.values, counted.tolist(), strict=True)
        return dict(sorted((pair for pair in pairs if pair[1]), key=lambda pair: (-pair[1], pair)))


@dataclass
class Survey:
    """Every row that was read, by number: one part after the other, in their order."""

    parts: dict[str, int] = field(default_factory=dict)
    """Rows read of each part."""
    labels: dict[str, Labels] = field(default_factory=lambda: {n: Labels() for n in LABELS})
    prompt_chars: array[int] = field(default_factory=lambda: array("q"))
    completion_chars: array[int] = field(default_factory=lambda: array("q"))
    tokens: array[int] = field(default_factory=lambda: array("q"))
    """Tokens of the completion; -1 where the row does not say."""
    repeats: bytearray = field(default_factory=bytearray)
    """1 where an equal row of the same part came before."""

    def __len__(self) -> int:
        return len(self.repeats)

    def first(self, part: str) -> int:
        """Return the number of a part's first row."""
        names = list(self.parts)
        return sum(self.parts[name] for name in names[: names.index(part)])

    def rows_of(self, part: str) -> NDArray[np.int64]:
        """Return the numbers of a part's rows."""
        start = self.first(part)
        return np.arange(start, start + self.parts[part], dtype=np.int64)

    def place_of(self, row: int) -> tuple[str, int]:
        """Return the part that a row is of, and its position there."""
        for name, count in self.parts.items():
            if row < count:
                return name, row
            row -= count
        raise AssertionError("a row's number is below the number of rows")

    def part_of(self, rows: NDArray[np.int64]) -> dict[str, int]:
        """Return how many of these rows each part gave."""
        edges = np.cumsum([0, *self.parts.values()])
        counted = np.histogram(rows, bins=edges)[0] if len(rows) else [0] * len(self.parts)
        return dict(zip(self.parts, map(int, counted), strict=True))

    def lengths(self, rows: NDArray[np.int64], name: str) -> NDArray[np.int64]:
        """Return `prompt_chars`, `completion_chars` or `tokens` of these rows."""
        values: array[int] = getattr(self, name)
        return np.frombuffer(values, np.int64)[rows] if len(rows) else np.zeros(0, np.int64)

    def num_chars(self, rows: NDArray[np.int64]) -> int:
        """Return the characters of these rows' prompts and completions together."""
        return sum(int(self.lengths(rows, n).sum()) for n in ("prompt_chars", "completion_chars"))


def survey_parts(
    parts: Mapping[str, Path],
    columns: Sequence[str],
    levels: Mapping[str, int],
    on_row: Callable[[Row], object] | None = None,
    limits: Mapping[str, int] | None = None,
    check: Callable[[], object] = lambda: None,
) -> Survey:
    """Read all parts once. `levels` maps problem ids to levels, for rows that have none.

    A part is read until it has given as many different rows as its limit, if it has one. `on_row`
    sees every row in the order of their numbers; `check` is called now and then.
    """
    survey = Survey()
    for part, folder in parts.items():
        limit = (limits or {}).get(part)
        survey.parts[part] = 0
        rows = map(with_completion, read_rows(folder, columns_in(folder, columns)))
        for row, is_repeat in _until(marked(rows), limit):
            _add(survey, row, is_repeat, levels)
            survey.parts[part] += 1
            if on_row is not None:
                on_row(row)
            if len(survey) % ROWS_PER_CHECK == 0:
                check()
    return survey


def with_completion(row: Row) -> Row:
    """Return a row with a completion: for pairs, both of theirs."""
    if "completion" in row:
        return row
    texts = [str(row.get(name) or "") for name in ("chosen", "rejected")]
    return {**row, "completion": "\0".join(texts)}


def columns_in(folder: Path, columns: Sequence[str]) -> list[str]:
    """Return the wanted columns and those labels and lengths that a part has."""
    names = pq.read_schema(shards_of(folder)[0]).names
    return [*columns, *(n for n in (*LABELS, "num_tokens") if n in names and n not in columns)]


def marked(rows: Iterable[Row]) -> Iterator[tuple[Row, bool]]:
    """Yield each row with whether an equal prompt and completion came before it."""
    seen: set[bytes] = set()
    for row in rows:
        mark = identity(row)
        yield row, mark in seen
        seen.add(mark)


def _until(rows: Iterable[tuple[Row, bool]], limit: int | None) -> Iterator[tuple[Row, bool]]:
    """Yield rows until `limit` of them were no repeats."""
    given = 0
    if limit == 0:
        return
    for row, is_repeat in rows:
        yield row, is_repeat
        given += not is_repeat
        if limit is not None and given >= limit:
            return


def _add(survey: Survey, row: Row, is_repeat: bool, levels: Mapping[str, int]) -> None:
    for name in LABELS:
        value = row.get(name)
        if name == "level" and value is None:
            value = levels.get(row.get("problem_id", ""))
        survey.labels[name].add(value)
    survey.prompt_chars.append(len(row["prompt"]))
    survey.completion_chars.append(len(row["completion"]))
    tokens = row.get("num_tokens")
    survey.tokens.append(-1 if tokens is None else tokens)
    survey.repeats.append(is_repeat)
