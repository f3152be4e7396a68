"""CSV and TSV: a header, then rows as text; nothing in them means null."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from r1pipe.files.layout import DataFile
from r1pipe.files.record import broken
from r1pipe.files.text import decoded, opened
from r1pipe.records import Row

MAX_FIELD_CHARS = (1 << 31) - 1
_QUOTES = 'put fields with separators, quotes or line ends in quotes (" inside is "")'


def read_csv(file: DataFile) -> Iterator[tuple[int, Row]]:
    """Yield number and values of the rows of a comma-separated file."""
    yield from _read(file, ",")


def read_tsv(file: DataFile) -> Iterator[tuple[int, Row]]:
    """Yield number and values of the rows of a tab-separated file."""
    yield from _read(file, "\t")


def _read(file: DataFile, separator: str) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(MAX_FIELD_CHARS)  # worked solutions are longer than the default
    row = 0
    with opened(file) as stream:
        lines = (decoded(file, row, line) for line in stream)
        reader = csv.reader(lines, delimiter=separator, strict=True)
        try:
            header = next((fields for fields in reader if fields), None)
            if header is None:
                return
            _check_header(file, header, separator)
            row = 1
            for fields in reader:
                if not fields:
                    continue
                if len(fields) != len(header):
                    what = f"line {reader.line_num}: {_count(fields)}, the header {len(header)}"
                    raise broken(file.path, what, _QUOTES, row)
                yield row, dict(zip(header, fields, strict=True))
                row += 1
        except csv.Error as error:
            what = f"line {reader.line_num}: {error} (is the file cut off?)"
            raise broken(file.path, what, _QUOTES, row) from error


def _count(fields: list[str]) -> str:
    return f"{len(fields)} field{'s' * (len(fields) != 1)}"


def _check_header(file: DataFile, header: list[str], separator: str) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise broken(file.path, f"two columns are called {twice[0]!r}", "rename one of them")
    if len(header) == 1 and (other := next((c for c in ";\t,|" if c in header[0]), "")):
        name = {"\t": "tabs", ",": "commas"}.get(other, f"{other!r}")
        here = {",": "commas", "\t": "tabs"}[separator]
        what = f"its header is parted by {name}, not by {here}"
        raise broken(file.path, what, "call it .tsv if it has tabs, or save it with commas")
