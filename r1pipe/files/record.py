"""One row of a data file, with its place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from r1pipe.errors import SourceError
from r1pipe.records import Row
from r1pipe.text import visible


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


def broken(path: Path, what: str, to_do: str, row: int | None = None) -> SourceError:
    """Return the error of a file that cannot be read: where, what is wrong, what to do.

    Row 0 is the header.
    """
    place = "" if row is None else f" row {row}:" if row else " header:"
    return SourceError(visible(f"{path}:{place} {what}; {to_do}"))
