"""Read chosen rows in any order with bounded memory: rows go into buckets on disk, by place.

A bucket holds about 64 MiB of text; each is read whole and put in order.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from r1pipe.records import Row
from r1pipe.rows import shards_of

BUCKET_BYTES = 64 << 20
BATCH_ROWS = 8_192
PART, PLACE = "source", "_place"
TURNS = "messages"
"""Column of conversations, as JSON; not all parts have it."""


def rows_in_order(
    parts: Mapping[str, Path],
    columns: Sequence[str],
    sizes: Mapping[str, int],
    rows: Sequence[int],
    num_chars: int,
    spill: Path,
    schema: pa.Schema | None = None,
) -> Iterator[Row]:
    """Yield the rows with these numbers, in this order, each with its part as `source`.

    Numbers count through the parts one after the other, `sizes[part]` in each. `num_chars` is about
    what the rows hold together; `spill` is a folder for the time of the call. A `schema` of the
    columns is needed where the parts have them in different types.
    """
    num_buckets = max(1, -(-num_chars // BUCKET_BYTES))
    places = np.full(sum(sizes.values()), -1, np.int64)
    places[rows] = np.arange(len(rows))
    try:
        spill.mkdir(parents=True)
        _fill(parts, columns, sizes, places, num_buckets, spill, schema)
        for bucket in sorted(spill.iterdir()):
            with pa.ipc.open_stream(bucket) as reader:
                table = reader.read_all()
            bucket.unlink()
            yield from table.sort_by(PLACE).drop_columns(PLACE).to_pylist()
    finally:
        shutil.rmtree(spill, ignore_errors=True)


def schema_with_turns(columns: Sequence[str]) -> pa.Schema:
    """Return the schema of ordered rows with conversations: a whole shard may have none."""
    return pa.schema([(name, pa.string()) for name in (*columns, PART)])


def schema_with_source(schema: pa.Schema) -> pa.Schema:
    """Return the schema of ordered rows of these columns."""
    return schema.append(pa.field(PART, pa.string()))


def _fill(
    parts: Mapping[str, Path],
    columns: Sequence[str],
    sizes: Mapping[str, int],
    places: NDArray[np.int64],
    num_buckets: int,
    spill: Path,
    schema: pa.Schema | None,
) -> None:
    """Write each chosen row into the bucket of its place."""
    start, num_rows = 0, int(places.max(initial=-1)) + 1
    writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
    with ExitStack() as stack:
        for part, folder in parts.items():
            read = 0
            for given in _batches(folder, columns):
                batch = given if schema is None else given.select(list(columns)).cast(schema)
                own = places[start + read : start + min(read + batch.num_rows, sizes[part])]
                read += batch.num_rows
                for bucket, table in _split(batch, own, part, num_buckets, num_rows):
                    if bucket not in writers:
                        path = spill / f"bucket-{bucket:05d}.arrow"
                        writer = pa.ipc.new_stream(path, table.schema)
                        writers[bucket] = stack.enter_context(writer)
                    writers[bucket].write_table(table)
                if read >= sizes[part]:
                    break
            start += sizes[part]


def _batches(folder: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield these columns of a folder's rows; with turns in one order, null where it has none."""
    for shard in shards_of(folder):
        for batch in pq.ParquetFile(shard).iter_batches(BATCH_ROWS, columns=list(columns)):
            yield batch if TURNS not in columns else _with_turns(batch).select(list(columns))


def _with_turns(batch: pa.RecordBatch) -> pa.RecordBatch:
    if TURNS in batch.schema.names:
        return batch
    return batch.append_column(TURNS, pa.nulls(batch.num_rows, pa.string()))


def _split(
    batch: pa.RecordBatch, places: NDArray[np.int64], part: str, num_buckets: int, num_rows: int
) -> Iterator[tuple[int, pa.Table]]:
    """Yield the chosen rows of a batch by bucket, with their part and place."""
    positions = np.nonzero(places >= 0)[0]
    buckets = places[positions] * num_buckets // max(1, num_rows)
    table = pa.Table.from_batches([batch])
    for bucket in np.unique(buckets).tolist():
        own = positions[buckets == bucket]
        taken = table.take(pa.array(own)).append_column(PART, pa.array([part] * len(own)))
        yield bucket, taken.append_column(PLACE, pa.array(places[own]))
