"""The same rows as bytes of every form of data file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from r1pipe.records import Row


def lines(rows: Sequence[Row]) -> bytes:
    """Return JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def separated(rows: Sequence[Row], separator: str = ",") -> bytes:
    """Return CSV, or TSV."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=separator)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def zstd(data: bytes) -> bytes:
    """Return bytes packed with Zstandard."""
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


def arrow(rows: Sequence[Row], is_stream: bool = True) -> bytes:
    """Return an Arrow stream, or file."""
    table, sink = pa.Table.from_pylist(list(rows)), pa.BufferOutputStream()
    with (pa.ipc.new_stream if is_stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def parquet(rows: Sequence[Row]) -> bytes:
    """Return a Parquet file."""
    return parquet_of(pa.Table.from_pylist(list(rows)))


def parquet_of(table: pa.Table) -> bytes:
    """Return a table as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def saved(rows: Sequence[Row], num_shards: int = 2) -> dict[str, bytes]:
    """Return the files that `Dataset.save_to_disk` writes, by name."""
    names = [f"data-{i:05d}-of-{num_shards:05d}.arrow" for i in range(num_shards)]
    size = -(-len(rows) // num_shards)
    files = {name: arrow(rows[i * size : (i + 1) * size]) for i, name in enumerate(names)}
    state = {"_data_files": [{"filename": name} for name in names], "_split": "train"}
    return files | {"state.json": json.dumps(state).encode(), "dataset_info.json": b"{}"}


def place(root: Path, files: Mapping[str, bytes]) -> Path:
    """Write files below a folder and return it."""
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root
