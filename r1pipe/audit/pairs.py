"""Labelled pairs: a gold answer, a completion, and whether it is right, from any data file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from r1pipe.audit.cases import as_completion, case_problem
from r1pipe.errors import SourceError
from r1pipe.files import Record, records
from r1pipe.records import Problem, Row
from r1pipe.text import did_you_mean, excerpt

COLUMNS = ("gold", "completion", "answer", "label", "kind")
"""What a pair is read from, each in the column of its name unless another is given."""
LABELS = {
    **dict.fromkeys(("right", "correct", "true", "yes", "1"), True),
    **dict.fromkeys(("wrong", "incorrect", "false", "no", "0", "no_answer"), False),
}
"""What a label may say, in any case; JSON's booleans and 1 and 0 too."""
ALL = "all"
"""The kind of pairs that name none."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A completion for a problem, and what is known of it."""

    problem: Problem
    completion: str
    is_right: bool
    kind: str
    place: str


def labelled_pairs(path: Path, columns: Mapping[str, str] | None = None) -> Iterator[Pair]:
    """Yield the pairs of a file or folder; `columns` maps names of `COLUMNS` to the file's own.

    A row has `gold`, `label` (see `LABELS`), and either `completion`, a whole one, or `answer`, a
    bare one, which is put in a box; `kind` is optional. `completion` is taken where both are there.
    Further columns are those of `cases.case_problem`: `task` and what its checker needs.
    """
    for record in records(path):
        yield pair_of(record, columns or {})


def corpus() -> Iterator[Pair]:
    """Yield every case of the shipped corpus as a pair; its label is `expected`."""
    return (pair_of(case, {"label": "expected"}) for case in corpus_cases())


def corpus_cases() -> Iterator[Record]:
    """Yield every case of the shipped corpus, by file and line."""
    folder = resources.files("r1pipe.audit") / "corpus"
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".jsonl"):
            for row, line in enumerate(file.read_text("utf-8").splitlines(), start=1):
                yield Record(file.name, row, json.loads(line))


def chosen_columns(assignments: Sequence[str]) -> dict[str, str]:
    """Read `gold=reference` and the like; raise SourceError for what a pair has not."""
    columns: dict[str, str] = {}
    for assignment in assignments:
        name, equals, column = assignment.partition("=")
        if name not in COLUMNS or not equals or not column:
            hint = did_you_mean(name, COLUMNS, shown="{}=...".format)
            raise SourceError(
                f"column {excerpt(assignment, 80)!r}: write NAME=COLUMN, such as gold=reference;"
                f" {hint}"
            )
        if name in columns:
            raise SourceError(f"column {name!r} is given twice; give it once")
        columns[name] = column
    if {"completion", "answer"} <= columns.keys():
        raise SourceError("columns completion and answer are both given; give one of them")
    return columns


def pair_of(record: Record, columns: Mapping[str, str]) -> Pair:
    """Return the pair of a row, or raise SourceError that says what is wrong with the row."""
    row = _renamed(record, columns)
    row["completion"] = _completion(record, row, columns)
    problem = case_problem(Record(record.file, record.row, row))
    kind = row.get("kind")
    return Pair(
        problem,
        row["completion"],
        _label(record, row, columns),
        ALL if kind is None else str(kind),
        record.place,
    )


def _renamed(record: Record, columns: Mapping[str, str]) -> Row:
    """Return the row with the columns that were chosen under the names that a pair has."""
    row = dict(record.values)
    for name, column in columns.items():
        if column not in record.values:
            raise _without(record, name, column)
        row[name] = record.values[column]
    if "answer" in columns:
        row.pop("completion", None)
    return row


def _without(record: Record, name: str, column: str) -> SourceError:
    there = sorted(map(str, record.values))
    hint = did_you_mean(column, there)
    what = f"no column {column!r}" + (f" for {name}" if name != column else "")
    return SourceError(
        f"{record.place}: {excerpt(what, 120)}; {excerpt(hint, 200)}; choose another with"
        f" --column {name}=COLUMN"
    )


def _completion(record: Record, row: Row, columns: Mapping[str, str]) -> str:
    """Return what the verifiers are shown: a completion as it is, a bare answer in a box."""
    name = "completion" if row.get("completion") is not None or "answer" not in row else "answer"
    if name not in row:
        raise _without(record, "completion", columns.get("completion", "completion"))
    text = row[name]
    if name == "answer" and isinstance(text, int | float) and not isinstance(text, bool):
        text = str(text)
    if not isinstance(text, str):
        raise SourceError(f"{record.place}: the {name} is no text; give what the model wrote")
    return text if name == "completion" else as_completion(text)


def _label(record: Record, row: Row, columns: Mapping[str, str]) -> bool:
    if "label" not in row:
        raise _without(record, "label", columns.get("label", "label"))
    label = row["label"]
    whole = int(label) if isinstance(label, float) and label.is_integer() else label
    is_right = LABELS.get(str(whole).strip().lower())
    if is_right is None:
        raise SourceError(
            f"{record.place}: label {excerpt(repr(label), 60)} is neither right nor wrong; write"
            " right or wrong, true or false, 1 or 0"
        )
    return is_right
