"""The readers of single files, by format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from r1pipe.files.arrow_files import read_arrow, read_parquet
from r1pipe.files.csv_files import read_csv, read_tsv
from r1pipe.files.json_files import read_json, read_json_lines
from r1pipe.files.layout import DataFile
from r1pipe.records import Row

Reader: TypeAlias = Callable[[DataFile], Iterator[tuple[int, Row]]]
READERS: Mapping[str, Reader] = {
    "JSON lines": read_json_lines,
    "JSON": read_json,
    "CSV": read_csv,
    "TSV": read_tsv,
    "Parquet": read_parquet,
    "Arrow": read_arrow,
}
"""By the formats of `layout.FORMATS`: number from 1 and values of each row."""
