"""Differences between two artifacts: key, params, metrics, and the rows of data sets by id."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path

from r1pipe.keys import JsonObject, digest_json
from r1pipe.store.actions import ActionRecord
from r1pipe.store.preimages import ABSENT, flatten
from r1pipe.store.sealing import read_seal
from r1pipe.store.store import Store
from r1pipe.text import excerpt, format_number, short_id

ROW_IDS = (("id",), ("row_id",), ("problem_id", "sample_index"), ("problem_id",))
"""Columns that name a row; the first of these that a data set has."""
MAX_SHOWN = 5
MAX_VALUE_CHARS = 240
PREDICTED = "predicted."
"""Of facts that say what a machine was expected to take: `show` compares those with what it took;
as JSON they are here too."""
ID = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class LeafDiff:
    """One value that differs."""

    name: str
    old: object
    new: object

    def lines(self) -> list[str]:
        """Return it as text, numbers, ids and long values as short as they differ.

        Of lists of texts, such as warnings, those that only one side has, line by line.
        """
        before, after = _texts(self.old), _texts(self.new)
        gone = [_signed("-", text) for text in before if text not in after]
        come = [_signed("+", text) for text in after if text not in before]
        if gone or come:
            return [f"  {self.name}", *chain(*gone, *come)]
        old, new = _short(self.old), _short(self.new)
        if old == new:
            old, new = str(self.old), str(self.new)
        return [f"  {self.name}: {old} -> {new}"]


def _texts(value: object) -> list[str]:
    """Return the texts of a list; nothing of any other value."""
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        return []
    return value


def _signed(sign: str, text: str) -> list[str]:
    first, *others = text.split("\n")
    return [f"    {sign} {first}", *(f"      {line}" for line in others)]


def _short(value: object) -> str:
    if isinstance(value, float):
        return format_number(value)
    if isinstance(value, str) and ID.fullmatch(value):
        return short_id(value)
    return excerpt(str(value), MAX_VALUE_CHARS)


@dataclass
class RowsDiff:
    """How the rows of one output differ, by the columns that name them."""

    output: str
    id_columns: tuple[str, ...]
    old_rows: int = 0
    new_rows: int = 0
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    def line(self) -> str:
        """Return one line of counts."""
        return (
            f"{self.output}: {self.old_rows} -> {self.new_rows} rows by "
            f"{', '.join(self.id_columns)}: {len(self.added)} added, {len(self.removed)} removed, "
            f"{len(self.changed)} changed"
        )


@dataclass
class ArtifactDiff:
    """All differences between two records; empty lists where there are none."""

    old: str
    new: str
    preimage: list[LeafDiff] = field(default_factory=list)
    metrics: list[LeafDiff] = field(default_factory=list)
    facts: list[LeafDiff] = field(default_factory=list)
    files: list[LeafDiff] = field(default_factory=list)
    rows: list[RowsDiff] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the differences as text."""
        lines = [f"{self.old} -> {self.new}"]
        for title in ("preimage", "metrics", "facts", "files"):
            found: list[LeafDiff] = getattr(self, title)
            if leaves := [leaf for leaf in found if not leaf.name.startswith(PREDICTED)]:
                lines.append("last metrics" if title == "metrics" else title)
                lines += [line for leaf in leaves for line in leaf.lines()]
        for rows in self.rows:
            lines.append(rows.line())
            for what in ("added", "removed", "changed"):
                ids: list[str] = getattr(rows, what)
                lines += [f"  {what} {row_id}" for row_id in ids[:MAX_SHOWN]]
                if len(ids) > MAX_SHOWN:
                    lines.append(f"  {what} {len(ids) - MAX_SHOWN} more")
        return lines if len(lines) > 1 else [*lines, "no difference"]

    def to_json(self) -> dict[str, object]:
        """Return the differences as JSON values."""
        return asdict(self)


def diff(store: Store, old: ActionRecord, new: ActionRecord) -> ArtifactDiff:
    """Compare two artifacts; rows are compared where both are here and an id column is."""
    found = ArtifactDiff(_label(old), _label(new))
    found.preimage = _leaves(flatten(old.preimage), flatten(new.preimage))
    found.metrics = _leaves(_last(store.metrics(old)), _last(store.metrics(new)))
    found.facts = _leaves(flatten({"": old.facts}), flatten({"": new.facts}))
    if old.artifact_id == new.artifact_id:
        return found
    folders = [store.artifact_dir(record.artifact_id) for record in (old, new)]
    found.files = _file_leaves(*folders)
    for output in sorted({*old.outputs} & {*new.outputs}):
        if old.outputs[output] != new.outputs[output]:
            rows = _diff_rows(output, folders[0] / output, folders[1] / output)
            if rows is not None:
                found.rows.append(rows)
    return found


def _label(record: ActionRecord) -> str:
    return f"{record.stage_name}@{record.artifact_id[:12]}"


def _leaves(old: Mapping[str, object], new: Mapping[str, object]) -> list[LeafDiff]:
    return [
        LeafDiff(name.lstrip("."), old.get(name, ABSENT), new.get(name, ABSENT))
        for name in sorted({*old, *new})
        if old.get(name, ABSENT) != new.get(name, ABSENT)
    ]


def _last(rows: list[JsonObject]) -> dict[str, object]:
    """Return the last value of each metric."""
    last: dict[str, object] = {}
    for row in rows:
        last.update(row)
    return last


def _file_leaves(old: Path, new: Path) -> list[LeafDiff]:
    sealed = [
        {entry.path: f"{short_id(entry.digest)} ({entry.size} bytes)" for entry in seal.files}
        for seal in (read_seal(old), read_seal(new))
    ]
    return _leaves(*sealed)


def _diff_rows(output: str, old: Path, new: Path) -> RowsDiff | None:
    """Compare two data sets row by row; None where either is no data set or names no rows."""
    columns = _id_columns(old)
    if columns is None or columns != _id_columns(new):
        return None
    before, after = _digests(old, columns), _digests(new, columns)
    found = RowsDiff(output, columns, len(before), len(after))
    found.added = [row_id for row_id in after if row_id not in before]
    found.removed = [row_id for row_id in before if row_id not in after]
    found.changed = [row_id for row_id, row in after.items() if before.get(row_id, row) != row]
    return found


def _id_columns(folder: Path) -> tuple[str, ...] | None:
    first = next(_rows(folder), None)
    if first is None:
        return None
    return next((columns for columns in ROW_IDS if all(name in first for name in columns)), None)


def _digests(folder: Path, columns: tuple[str, ...]) -> dict[str, str]:
    """Return {row id: digest of the row}; rows that share an id are numbered."""
    found: dict[str, str] = {}
    for row in _rows(folder):
        row_id = "/".join(str(row[name]) for name in columns)
        number = 1
        unique = row_id
        while unique in found:
            number += 1
            unique = f"{row_id}#{number}"
        found[unique] = digest_json(json.loads(json.dumps(row, default=str)))
    return found


def _rows(folder: Path) -> Iterator[JsonObject]:
    """Yield the rows of Parquet shards and of JSON lines, in the order of their files."""
    if any(folder.glob("part-*.parquet")):
        from r1pipe.rows import read_rows

        yield from read_rows(folder)
    for path in sorted(folder.glob("*.jsonl")):
        with path.open(encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                if isinstance(row, dict):
                    yield row
