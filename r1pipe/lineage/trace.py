"""Trace one row through the store: its places, what it was made from, what it went into.

A row is found again from artifact to artifact by its id; where rows have none (a mix), by problem,
prompt and completion. Only the columns that decide are read of what does not match.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from r1pipe.errors import ArtifactError
from r1pipe.records import Row
from r1pipe.text import short_id

if TYPE_CHECKING:
    import pyarrow.parquet as pq

    from r1pipe.store.actions import ActionRecord as Record
    from r1pipe.store.store import Store

SAME = ("problem_id", "prompt", "completion")
"""What makes two rows one where they have no ids."""
MODEL = "model"
BATCH_ROWS = 1024
FIRST = ("candidates", "rows", "problems")
"""Outputs in the order in which a row is looked for."""


@dataclass(frozen=True)
class Place:
    """A row in one output of a record, at a position counted from 0."""

    record: Record
    output: str
    position: int
    row: Row

    @property
    def is_problem(self) -> bool:
        """True for a row that `Problem.from_row` would read."""
        return {"checker", "meta", "id"} <= self.row.keys()


def find_rows(folder: Path, column: str, value: str) -> Iterator[tuple[int, Row]]:
    """Yield (position, row) where a column has a value; only that column is read of the others."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    start = 0
    for path in sorted(folder.glob("part-*.parquet")):
        shard = pq.ParquetFile(path)
        if column not in shard.schema_arrow.names:
            return
        for number in range(shard.num_row_groups):
            keys = shard.read_row_group(number, columns=[column]).column(column)
            hits = pc.indices_nonzero(pc.equal(keys, value)).to_pylist()
            rows = _rows_of_group(shard, number, hits)
            yield from zip((start + hit for hit in hits), rows, strict=True)
            start += len(keys)


def _rows_of_group(shard: pq.ParquetFile, number: int, positions: list[int]) -> Iterator[Row]:
    """Yield the rows at some positions of a row group, in order, one batch in memory."""
    start, waiting = 0, deque(positions)
    for batch in shard.iter_batches(BATCH_ROWS, row_groups=[number]) if positions else ():
        while waiting and waiting[0] < start + batch.num_rows:
            yield batch.slice(waiting.popleft() - start, 1).to_pylist()[0]
        start += batch.num_rows
        if not waiting:
            return


def row_at(folder: Path, position: int) -> Row | None:
    """Return the row at a position, or None after the last one."""
    import pyarrow.parquet as pq

    for path in sorted(folder.glob("part-*.parquet")):
        shard = pq.ParquetFile(path)
        for number in range(shard.num_row_groups):
            size = shard.metadata.row_group(number).num_rows
            if position < size:
                return next(_rows_of_group(shard, number, [position]))
            position -= size
    return None


def columns_of(folder: Path) -> list[str]:
    """Return the columns of a folder of rows; of any other folder none."""
    import pyarrow.parquet as pq

    shards = sorted(folder.glob("part-*.parquet"))
    return list(pq.read_schema(shards[0]).names) if shards else []


def find_again(folder: Path, row: Row) -> tuple[int, Row] | None:
    """Return the position and form in this artifact of another artifact's row."""
    columns = columns_of(folder)
    if "id" in columns and "id" in row:
        return next(find_rows(folder, "id", row["id"]), None)
    same = [name for name in SAME if name in columns and name in row]
    if "problem_id" not in same or "prompt" not in same:
        return None
    for position, found in find_rows(folder, "problem_id", row["problem_id"]):
        if all(found[name] == row[name] for name in same):
            return position, found
    return None


class Trace:
    """The records of a store, linked by the ids of what they read."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.makers: dict[str, tuple[Record, str]] = {}
        self.readers: dict[str, list[tuple[str, Record]]] = {}
        for record in sorted(store.records(), key=lambda record: record.created):
            for output, identifier in record.outputs.items():
                self.makers[identifier] = record, output
            for name, link in record.links():
                self.readers.setdefault(link["id"], []).append((name, record))

    def folder(self, record: Record, output: str) -> Path:
        """Return the folder of one output."""
        return self.store.output_dir(record, output)

    def row_outputs(self, record: Record) -> list[str]:
        """Return the outputs that hold rows, candidates first; none where the artifact is gone."""
        names = sorted(record.outputs, key=lambda name: (name not in FIRST, _rank(name)))
        try:
            return [name for name in names if columns_of(self.folder(record, name))]
        except ArtifactError:
            return []

    def above(self, record: Record) -> list[tuple[str, Record, str]]:
        """Return (input, maker, output) of what a record read from the store."""
        found = ((name, self.makers.get(link["id"])) for name, link in record.links())
        return [(name, *maker) for name, maker in found if maker is not None]

    def upstream(self, record: Record) -> Iterator[Record]:
        """Yield a record and the makers of its rows, nearest first; not the makers of models."""
        seen, waiting = {record.key}, deque([record])
        while waiting:
            yield (each := waiting.popleft())
            for _, maker, output in self.above(each):
                if maker.key not in seen and output in self.row_outputs(maker):
                    seen.add(maker.key)
                    waiting.append(maker)

    def find(self, record: Record, row_id: str) -> Place:
        """Return the row of an artifact, or of what it was made from, that an id names.

        A number is the row's position in the artifact, counted from 0.

        Raises ArtifactError when there is none, or when several rows share what was given.
        """
        if (own := self._find_unnamed(record, row_id)) is not None:
            return own
        for each in self.upstream(record):
            for output in self.row_outputs(each):
                for position, row in find_rows(self.folder(each, output), "id", row_id):
                    return Place(each, output, position, row)
        raise ArtifactError(f"{label(record)}: {self._no_row(record, row_id)}")

    def _find_unnamed(self, record: Record, row_id: str) -> Place | None:
        """Return the row that a number or, where rows have no ids, a problem's id names."""
        for output in self.row_outputs(record):
            folder = self.folder(record, output)
            if row_id.isdecimal() and (row := row_at(folder, int(row_id))) is not None:
                return Place(record, output, int(row_id), row)
            if "id" in columns_of(folder):
                continue
            found = list(find_rows(folder, "problem_id", row_id))
            if len(found) == 1:
                return Place(record, output, *found[0])
            if found:
                numbers = ", ".join(str(position) for position, _ in found[:8])
                raise ArtifactError(
                    f"{label(record)}: {len(found)} rows are of problem '{row_id}'; say which by"
                    f" its number: {numbers}"
                )
        return None

    def _no_row(self, record: Record, row_id: str) -> str:
        """Return the error that there is no such row, with an id as an example."""
        problem = row_id.rpartition("#")[0]
        for each in self.upstream(record):
            for output in self.row_outputs(each):
                folder = self.folder(each, output)
                of_problem = [row for _, row in find_rows(folder, "problem_id", problem)]
                if ids := [str(row["id"]) for row in of_problem if "id" in row]:
                    return f"no row '{row_id}'; of problem {problem} there are {', '.join(ids)}"
        for output in self.row_outputs(record):
            row = row_at(self.folder(record, output), 0) or {}
            if example := row.get("id", row.get("problem_id")):
                return f"no row '{row_id}'; its ids look like '{example}'"
        return f"no row '{row_id}'; it holds no rows with ids"

    def follow(self, start: Place) -> Iterator[tuple[str, Record, Place | None]]:
        """Yield what a row went into: (input, record, its place there, or None).

        Nothing is followed past a record that did not take the row, or that made no rows.
        """
        seen: set[str] = set()
        waiting = deque(self.standing(start.record, start.row))
        while waiting:
            place = waiting.popleft()
            for name, reader in self.readers.get(place.record.outputs[place.output], []):
                if reader.key in seen:
                    continue
                seen.add(reader.key)
                places = self.standing(reader, place.row)
                yield name, reader, places[0] if places else None
                waiting.extend(places)

    def standing(self, record: Record, row: Row) -> list[Place]:
        """Return the places of a row in the outputs of a record."""
        return [
            Place(record, output, *found)
            for output in self.row_outputs(record)
            if (found := find_again(self.folder(record, output), row)) is not None
        ]

    def made_from(self, record: Record) -> Iterator[Record]:
        """Yield the models that were made from a model, nearest first."""
        seen, waiting = {record.key}, deque([record])
        while waiting:
            for _, reader in self.readers.get(waiting.popleft().outputs[MODEL], []):
                if MODEL in reader.outputs and reader.key not in seen:
                    seen.add(reader.key)
                    waiting.append(reader)
                    yield reader


def _rank(name: str) -> int:
    return FIRST.index(name) if name in FIRST else len(FIRST)


def label(record: Record) -> str:
    """Return a record's name as the command line takes it."""
    return f"{record.stage_name}@{short_id(record.artifact_id)}"
