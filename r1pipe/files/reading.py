"""From a path to its rows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from r1pipe.errors import SourceError
from r1pipe.files.formats import READERS
from r1pipe.files.json_files import row_of_line
from r1pipe.files.layout import DataFile, data_files
from r1pipe.files.record import Record, broken
from r1pipe.files.text import opened

FIRST_ROWS = 50
"""Rows by which a data set's shape is found."""


def records(path: Path, *, config: str | None = None, split: str | None = None) -> Iterator[Record]:
    """Yield the rows of a file or folder in order, one batch in memory.

    `config` and `split` choose among the files of a folder. Raises SourceError for what is missing,
    broken, cut, wrongly encoded or without rows: the file, the row, and what to do.
    """
    num_rows = 0
    for file in data_files(path, config, split):
        for row, values in READERS[file.format](file):
            num_rows += 1
            yield Record(file.name, row, values)
    if not num_rows:
        raise broken(path, "there are no rows in it", "give a file with rows")


def records_or_faults(path: Path) -> Iterator[Record | SourceError]:
    """Yield the rows of a file or folder, and in place of a broken one what is wrong with it.

    After a broken line of JSON lines the next one follows; a broken file of another format ends
    there, since nobody knows where its next row begins. Raises SourceError for what is missing or
    has no rows.
    """
    num_rows = 0
    for file in data_files(path, None, None):
        for found in _lines(file) if file.format == "JSON lines" else _rows(file):
            num_rows += 1
            yield found
    if not num_rows:
        raise broken(path, "there are no rows in it", "give a file with rows")


def _lines(file: DataFile) -> Iterator[Record | SourceError]:
    try:
        with opened(file) as stream:
            for number, line in enumerate(stream, start=1):
                try:
                    values = row_of_line(file, number, line)
                except SourceError as error:
                    yield error
                else:
                    if values is not None:
                        yield Record(file.name, number, values)
    except SourceError as error:
        yield error


def _rows(file: DataFile) -> Iterator[Record | SourceError]:
    try:
        for row, values in READERS[file.format](file):
            yield Record(file.name, row, values)
    except SourceError as error:
        yield error


def first_records(path: Path) -> list[Record]:
    """Return the first rows of a file or folder."""
    return list(islice(records(path), FIRST_ROWS))


def described(path: Path) -> str:
    """Say which files are read: `a.jsonl (JSON lines)`, `3 files from a.csv on (CSV)`."""
    files = data_files(path)
    names = files[0].name if len(files) == 1 else f"{len(files)} files from {files[0].name} on"
    return f"{names} ({files[0].format})"
