"""JSON: a line for each row, one array of objects, objects one after another, or columns."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import IO

from r1pipe.files.layout import DataFile
from r1pipe.files.record import broken
from r1pipe.files.text import CHUNK_BYTES, TO_UTF_8, decoded, opened
from r1pipe.records import Row

_SPACE = " \t\r\n"
_NEAR_END = 12
"""Characters: the longest literal of JSON that may be cut by the end of what was read."""
_KINDS = {
    list: "an array",
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}
_CORRECT = "correct or remove it"


def read_json_lines(file: DataFile) -> Iterator[tuple[int, Row]]:
    """Yield the line number and the object of each line that is not blank."""
    with opened(file) as stream:
        for number, line in enumerate(stream, start=1):
            if (value := row_of_line(file, number, line)) is not None:
                yield number, value


def row_of_line(file: DataFile, number: int, line: bytes) -> Row | None:
    """Return the object of a line, None for a blank one; SourceError for any other."""
    text = decoded(file, number, line).strip()
    if not text:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        is_cut = not line.endswith(b"\n")
        what = _reason(error) + (" (is the file cut off?)" if is_cut else "")
        raise broken(file.path, what, _CORRECT, number) from error
    return _checked(file, number, value, text)


def read_json(file: DataFile) -> Iterator[tuple[int, Row]]:
    """Yield number and object of each row: of an array, of a series of objects, or of columns."""
    with opened(file) as stream:
        text = _Text(file, stream)
        first = text.peek()
        if first == "[":
            text.at += 1
            yield from _array(file, text)
        elif first == "{":
            yield from _objects(file, text)
        elif first:
            what = f"it begins with {first!r}, not with an array or object of JSON"
            raise broken(file.path, what, "give an array of objects, or JSON lines")


def _array(file: DataFile, text: _Text) -> Iterator[tuple[int, Row]]:
    while (char := text.peek()) != "]":
        if text.row:
            if char != ",":
                raise _cut_or(file, text, f"{char!r} where a comma or ] should be")
            text.at += 1
        yield text.next_object()
    text.at += 1
    if text.peek():
        raise broken(file.path, "there is more after the array", "give JSON lines, or one array")


def _objects(file: DataFile, text: _Text) -> Iterator[tuple[int, Row]]:
    number, first = text.next_object()
    if not text.peek():
        yield from enumerate(_rows_of_one(file, first), start=1)
        return
    yield number, first
    while text.peek():
        yield text.next_object()


def _rows_of_one(file: DataFile, found: Row) -> Iterator[Row]:
    """Yield the rows of the only object of a file: columns, or else itself."""
    columns = list(found.values())
    if not columns or not all(isinstance(column, list | dict) for column in columns):
        yield found
    elif all(isinstance(column, dict) for column in columns):
        yield from _indexed(file, found)
    elif not all(isinstance(column, list) for column in columns):
        yield found
    elif all(isinstance(item, dict) for column in columns for item in column):
        what = f"one object of arrays of objects ({', '.join(found)}): rows or columns?"
        raise broken(file.path, what, "save the array of rows itself, or JSON lines")
    elif len({len(column) for column in columns}) > 1:
        sizes = ", ".join(f"{name} {len(column)}" for name, column in found.items())
        what = f"its columns have different lengths ({sizes})"
        raise broken(file.path, what, "give columns of one length, or JSON lines")
    else:
        for values in zip(*columns, strict=True):
            yield dict(zip(found, values, strict=True))


def _indexed(file: DataFile, found: Row) -> Iterator[Row]:
    """Yield the rows of columns that are objects by row number, as pandas writes them."""
    labels = [list(column) for column in found.values()]
    is_numbered = all(label.isdecimal() for label in labels[0])
    if not is_numbered or any(each != labels[0] for each in labels):
        yield found
        return
    for label in labels[0]:
        yield {name: column[label] for name, column in found.items()}


class _Text:
    """The text of a file, decoded as it is needed."""

    def __init__(self, file: DataFile, stream: IO[bytes]) -> None:
        self.file = file
        self.stream = stream
        self.held = ""
        self.at = 0
        self.row = 0
        """Rows so far."""
        self.is_whole = False
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._json = json.JSONDecoder()

    def more(self, num_bytes: int = CHUNK_BYTES) -> bool:
        """Read on; False at the end of the file."""
        if self.is_whole:
            return False
        chunk = self.stream.read(num_bytes)
        self.is_whole = not chunk
        try:
            new = self._decoder.decode(chunk, final=self.is_whole)
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            what = f"there or later: byte 0x{byte:02x} is not UTF-8"
            raise broken(self.file.path, what, TO_UTF_8.format("LATIN1"), self.row + 1) from error
        self.held, self.at = self.held[self.at :] + new, 0
        return True

    def peek(self) -> str:
        """Return the next character that is no blank, "" at the end."""
        while True:
            while self.at < len(self.held) and self.held[self.at] in _SPACE:
                self.at += 1
            if self.at < len(self.held):
                return self.held[self.at]
            if not self.more():
                return ""

    def next_object(self) -> tuple[int, Row]:
        """Return number and value of the object that comes next."""
        char = self.peek()
        self.row += 1
        if char != "{":
            what = f"{char!r} where an object should begin" if char else "it is cut off"
            raise broken(self.file.path, what, _CORRECT, self.row)
        while True:
            try:
                value, end = self._json.raw_decode(self.held, self.at)
                break
            except json.JSONDecodeError as error:
                is_cut = error.pos >= len(self.held) - _NEAR_END or "Unterminated" in error.msg
                # twice as much each time: a huge row is not parsed again for every chunk
                if is_cut and self.more(max(CHUNK_BYTES, len(self.held) - self.at)):
                    continue
                what = _reason(error) + (" (is the file cut off?)" if is_cut else "")
                raise broken(self.file.path, what, _CORRECT, self.row) from error
            except (ValueError, RecursionError) as error:
                raise broken(self.file.path, _reason(error), _CORRECT, self.row) from error
        text, self.at = self.held[self.at : end], end
        return self.row, _checked(self.file, self.row, value, text)


def _cut_or(file: DataFile, text: _Text, what: str) -> Exception:
    found = what if text.peek() else "the array does not end (is the file cut off?)"
    return broken(file.path, found, _CORRECT, text.row)


def _checked(file: DataFile, row: int, value: object, text: str) -> Row:
    """Return a row that is an object of whole characters."""
    if not isinstance(value, dict):
        what = f"it is {_KINDS[type(value)]}, not an object"
        raise broken(file.path, what, 'write {"column": value, ...} for each row', row)
    if "\\ud" in text.lower() and _is_half(value):
        what = "half of a character (a lone surrogate such as \\ud83d)"
        raise broken(file.path, what, _CORRECT, row)
    return value


def _is_half(value: Row) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        what = error.msg.removesuffix(" at")  # of some messages, with the place behind it
        return f"it is not JSON: {what} at character {error.pos + 1}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error).partition(";")[0]
