"""Data files: every form gives the same rows, from the very bytes that are there."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r1pipe.data.files import records
from r1pipe.records import Row

ROWS: list[Row] = [{"q": "one, or \u4e8c", "a": "1"}, {"q": 'a "quoted"\nline', "a": "2"}]


def lines(rows: Sequence[Row]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def separated(rows: Sequence[Row], separator: str) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=separator)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


def arrow(rows: Sequence[Row], is_stream: bool) -> bytes:
    table, sink = pa.Table.from_pylist(list(rows)), pa.BufferOutputStream()
    with (pa.ipc.new_stream if is_stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def parquet(rows: Sequence[Row]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows)), sink)
    return bytes(sink.getvalue())


def forms() -> dict[str, bytes]:
    """Return file name -> bytes of the same rows."""
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    numbered = {name: {str(i): row[name] for i, row in enumerate(ROWS)} for name in ROWS[0]}
    found = {
        "a.jsonl": lines(ROWS),
        "a.ndjson": lines(ROWS),
        "bom.jsonl": b"\xef\xbb\xbf" + lines(ROWS),
        "crlf.jsonl": lines(ROWS).replace(b"\n", b"\r\n"),
        "lines.json": lines(ROWS),
        "array.json": json.dumps(ROWS, indent=2).encode(),
        "bom.json": b"\xef\xbb\xbf \n" + json.dumps(ROWS).encode(),
        "columns.json": json.dumps(columns).encode(),
        "pandas.json": json.dumps(numbered).encode(),
        "pretty.json": "\n".join(json.dumps(row, indent=1) for row in ROWS).encode(),
        "a.csv": separated(ROWS, ","),
        "bom.csv": b"\xef\xbb\xbf" + separated(ROWS, ","),
        "a.tsv": separated(ROWS, "\t"),
        "a.parquet": parquet(ROWS),
        "stream.arrow": arrow(ROWS, is_stream=True),
        "file.arrow": arrow(ROWS, is_stream=False),
    }
    for name in ("a.jsonl", "array.json", "a.csv", "a.tsv"):
        found[f"{name}.gz"] = gzip.compress(found[name])
        found[f"{name}.zst"] = zstd(found[name])
    found["A.JSONL.GZ"] = found["a.jsonl.gz"]
    found["A.PARQUET"] = found["a.parquet"]
    return found


FORMS = forms()


@pytest.mark.parametrize("name", sorted(FORMS))
def test_every_form_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(FORMS[name])
    assert [record.values for record in records(path)] == ROWS
