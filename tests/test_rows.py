"""Shards of rows: cut by rows and bytes, the same however the rows are handed in."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r1pipe.errors import ArtifactError
from r1pipe.rows import RowWriter, read_problems, read_rows, write_problems

SCHEMA = pa.schema([("id", pa.int64()), ("text", pa.string())])


def texts(count: int) -> list[dict[str, Any]]:
    rng = random.Random(1)
    return [
        {"id": n, "text": "和" * rng.randrange(9) + "x" * rng.randrange(40)} for n in range(count)
    ]


def write(folder: Path, rows: list[dict[str, Any]], at_once: int, schema: Any) -> None:
    writer = RowWriter(folder, schema, rows_per_shard=40, bytes_per_shard=1000)
    for start in range(0, len(rows), at_once):
        writer.write(rows[start : start + at_once])
    writer.close()


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("schema", [SCHEMA, None])
def test_shards_do_not_depend_on_how_many_rows_are_written_at_once(
    tmp_path: Path, schema: Any
) -> None:
    rows = texts(300)
    write(tmp_path / "one", rows, 1, SCHEMA)
    for at_once in (7, 64, 300):
        write(tmp_path / str(at_once), rows, at_once, schema)
        assert shards(tmp_path / str(at_once)) == shards(tmp_path / "one")
    assert list(read_rows(tmp_path / "one")) == rows
    assert len(shards(tmp_path / "one")) > 8, "not by the number of rows alone"


@pytest.mark.parametrize(
    ("text", "count", "sizes"),
    [
        ("和" * 164, 5, [2, 2, 1]),  # a number is 8 bytes, each of these characters 3: 500 a row
        ("", 81, [40, 40, 1]),
    ],
)
def test_a_shard_ends_with_the_row_that_fills_it(
    tmp_path: Path, text: str, count: int, sizes: list[int]
) -> None:
    write(tmp_path, [{"id": n, "text": text} for n in range(count)], count, SCHEMA)
    found = [pq.ParquetFile(path).metadata.num_rows for path in sorted(tmp_path.iterdir())]
    assert found == sizes


def test_a_set_without_problems_is_refused_by_who_reads_it(tmp_path: Path) -> None:
    write_problems(tmp_path, [])
    with pytest.raises(ArtifactError, match="there are no problems in it"):
        read_problems(tmp_path)
