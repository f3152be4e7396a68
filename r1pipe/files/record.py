"""One row of a data file, with its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from r1pipe.errors import SourceError
from r1pipe.records import Row
from r1pipe.text import listed, visible

MAX_NAMES = 12
"""Of columns in a message."""


@dataclass(frozen=True, slots=True)
class Record:
    """A row and where it stands.

    `file` is relative to the folder that was read, or a single file's name; `row` counts from 1
    inside the file: in JSON lines the line, in CSV the rows below the header.
    """

    file: str
    row: int
    values: Row

    @property
    def place(self) -> str:
        """The place as `file:row`."""
        return f"{self.file}:{self.row}"


def some_names(names: Sequence[str]) -> str:
    """Return names of columns for a message: the first ones, and how many more there are."""
    return listed(names, MAX_NAMES)


class BrokenRow(SourceError):  # noqa: N818 - the row, with what is wrong
    """A row that cannot be read; `said` is what is wrong with it and what to do."""

    def __init__(self, path: Path, row: int, said: str) -> None:
        super().__init__(f"{visible(str(path))}: row {row}: {said}")
        self.row = row
        self.place = f"{visible(path.name)}:{row}"
        self.said = said


def broken(path: Path, what: str, to_do: str, row: int | None = None) -> SourceError:
    """Return the error of a file that cannot be read: where, what is wrong, what to do.

    Row 0 is the header.
    """
    said = visible(f"{what}; {to_do}")
    if row:
        return BrokenRow(path, row, said)
    return SourceError(f"{visible(str(path))}:{'' if row is None else ' header:'} {said}")
