"""Parquet shards of plain rows: the form of every data set in an artifact."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from r1pipe.errors import ArtifactError
from r1pipe.plugins.tables import stamped
from r1pipe.records import Problem, Row
from r1pipe.stage import Context

ROWS_PER_SHARD = 50_000
BYTES_PER_SHARD = 128 << 20
"""Most bytes of rows in one shard, before compression: what a writer holds in memory."""
SHARDS = "part-*.parquet"
"""The names of the files of a set of rows."""
ROWS_AT_ONCE = 1024
NUM_SAMPLES = 8
"""Rows of an output that `r1pipe show` has."""
IMPORT = "a stage of kind import-rows makes r1pipe's rows of other data"


class RowWriter:
    """Writes rows into `folder/part-00000.parquet` and so on; a full shard is closed at once.

    With a schema rows are held as Arrow data, without one as they are until the first shard is
    full, whose schema then holds for all. Memory is one shard. The bytes of the shards depend on
    the rows only, not on how many of them are written at once.
    """

    def __init__(
        self,
        folder: Path,
        schema: pa.Schema | None = None,
        rows_per_shard: int = ROWS_PER_SHARD,
        bytes_per_shard: int = BYTES_PER_SHARD,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.schema = schema
        self.num_rows = 0
        self._limits = (rows_per_shard, bytes_per_shard)
        self._num_shards = self._held_rows = self._held_bytes = 0
        self._rows: list[Mapping[str, object]] = []
        self._batches: list[pa.RecordBatch] = []

    def write(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Add rows; they are on the disk when their shard is full, or at `close`."""
        start = 0
        for end, row in enumerate(rows, start=1):
            self._held_rows += 1
            self._held_bytes += _size(row)
            if self._held_rows >= self._limits[0] or self._held_bytes >= self._limits[1]:
                self._hold(rows[start:end])
                self._write_shard()
                start = end
        self._hold(rows[start:])

    def close(self) -> None:
        """Write the last shard; without any row, one empty shard."""
        if self._held_rows or not self._num_shards:
            self._write_shard()

    def _hold(self, rows: Sequence[Mapping[str, object]]) -> None:
        self.num_rows += len(rows)
        if self.schema is None:
            self._rows.extend(rows)
        elif rows:
            self._batches.append(pa.RecordBatch.from_pylist(list(rows), schema=self.schema))

    def _write_shard(self) -> None:
        if self.schema is None:
            table = pa.Table.from_pylist([dict(row) for row in self._rows])
            self.schema = table.schema
        else:
            table = pa.Table.from_batches(self._batches, schema=self.schema).combine_chunks()
        path = self.folder / f"part-{self._num_shards:05d}.parquet"
        pq.write_table(table, path, compression="zstd")
        self._num_shards += 1
        self._rows, self._batches = [], []
        self._held_rows = self._held_bytes = 0


def _size(row: Mapping[str, object]) -> int:
    """Estimate the bytes that a row takes in memory as Arrow data."""
    return sum(
        (len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass")))
        if isinstance(value, str)
        else 8
        for value in row.values()
    )


def write_rows(
    folder: Path,
    rows: Iterable[Mapping[str, object]],
    schema: pa.Schema | None = None,
    rows_per_shard: int = ROWS_PER_SHARD,
) -> int:
    """Write rows into `folder/part-00000.parquet` and so on; return their number.

    Memory is one shard. The schema of the first shard holds for all unless one is given.
    """
    writer, iterator = RowWriter(folder, schema, rows_per_shard), iter(rows)
    while some := list(islice(iterator, ROWS_AT_ONCE)):
        writer.write(some)
    writer.close()
    return writer.num_rows


def with_samples(
    context: Context,
    rows: Iterable[Mapping[str, Any]],
    show: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
) -> Iterator[Mapping[str, Any]]:
    """Pass rows on, and keep the first ones for `r1pipe show`, each as `show` gives it."""
    for number, row in enumerate(rows):
        if number < NUM_SAMPLES:
            context.sample(**show(row))
        yield row


def read_rows(
    folder: Path, columns: Sequence[str] | None = None, only: str | None = None
) -> Iterator[Row]:
    """Yield the rows of a folder written by `write_rows`, in order, one batch in memory.

    `only` names a column of booleans: rows in which it is false are left out. Raises ArtifactError
    when the folder holds no Parquet file, or none of these columns.
    """
    if columns is not None:
        check_columns(folder, columns)
    for shard in shards_of(folder):
        for batch in pq.ParquetFile(shard).iter_batches(ROWS_AT_ONCE, columns=columns):
            chosen = batch if only is None else batch.filter(batch.column(only))
            yield from chosen.to_pylist()


def count_rows(folder: Path) -> int:
    """Return the number of rows in a folder written by `write_rows`, as its files say."""
    return sum(pq.ParquetFile(shard).metadata.num_rows for shard in shards_of(folder))


def shards_of(folder: Path) -> list[Path]:
    """Return the Parquet files of a folder in order, or raise ArtifactError."""
    shards = sorted(folder.glob(SHARDS))
    if not shards:
        raise ArtifactError(f"{folder}: no part-*.parquet here, as r1pipe writes rows; {IMPORT}")
    return shards


def check_columns(folder: Path, columns: Iterable[str], advice: str = "") -> None:
    """Raise ArtifactError if a folder's rows lack a column."""
    names = schema_of(folder).names
    if missing := [name for name in columns if name not in names]:
        raise ArtifactError(
            f"{folder}: its rows have no column {', '.join(missing)} (they have"
            f" {', '.join(names)}); {advice or IMPORT}"
        )


def schema_of(folder: Path) -> pa.Schema:
    """Return the columns of a folder's rows, for others of the same shape."""
    return pq.read_schema(shards_of(folder)[0]).remove_metadata()


def write_problems(folder: Path, problems: Iterable[Problem]) -> int:
    """Write problems as rows; return their number."""
    return write_rows(folder, (stamped(problem).to_row() for problem in problems))


def read_problems(folder: Path) -> list[Problem]:
    """Read problems written by `write_problems`. Raises ArtifactError if there are none."""
    problems = [Problem.from_row(row) for row in read_rows(folder)]
    if not problems:
        raise ArtifactError(
            f"{folder}: there are no problems in it; give a set that has some (`decontaminate`"
            " writes an empty one in place of what it was not given)"
        )
    return problems
