"""From a path to its rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from r1pipe.data.files.formats import READERS
from r1pipe.data.files.layout import data_files
from r1pipe.data.files.record import Record, broken


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
