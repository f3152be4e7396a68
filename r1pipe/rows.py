"""Parquet shards of plain rows: the form of every data set in an artifact."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from r1pipe.errors import ArtifactError
from r1pipe.records import Problem

ROWS_PER_SHARD = 50_000


def write_rows(
    folder: Path,
    rows: Iterable[Mapping[str, Any]],
    schema: pa.Schema | None = None,
    rows_per_shard: int = ROWS_PER_SHARD,
) -> int:
    """Write rows into `folder/part-00000.parquet` and on; return their number.

    Memory is one shard. The schema of the first shard holds for all unless one is given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    iterator, count = iter(rows), 0
    for index in range(1_000_000):
        shard = [dict(row) for row in islice(iterator, rows_per_shard)]
        if not shard and index:
            break
        table = pa.Table.from_pylist(shard, schema=schema)
        schema = table.schema
        pq.write_table(table, folder / f"part-{index:05d}.parquet", compression="zstd")
        count += len(shard)
        if len(shard) < rows_per_shard:
            break
    return count


def read_rows(folder: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a folder written by `write_rows`, in order, one batch in memory.

    Raises ArtifactError when the folder holds no Parquet file.
    """
    shards = sorted(folder.glob("part-*.parquet"))
    if not shards:
        raise ArtifactError(f"{folder}: no part-*.parquet here; was this artifact made by r1pipe?")
    for shard in shards:
        for batch in pq.ParquetFile(shard).iter_batches(columns=columns):
            yield from batch.to_pylist()


def write_problems(folder: Path, problems: Iterable[Problem]) -> int:
    """Write problems as rows; return their number."""
    return write_rows(folder, (problem.to_row() for problem in problems))


def read_problems(folder: Path) -> list[Problem]:
    """Read problems written by `write_problems`."""
    return [Problem.from_row(row) for row in read_rows(folder)]
