"""The one printer: no text of others moves the cursor, colours or reorders what a terminal shows.

Everything that a command prints goes through here (and through `console.py`, which shows progress).
Control characters, C1, DEL and bidirectional marks are written out: `visible` for text, an escape
of JSON, which reads back as the same text, for documents.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterable
from types import TracebackType
from typing import TextIO

from r1pipe.text import visible


def say(text: str) -> None:
    """Print what was asked for; its lines stay lines."""
    print(visible(text, keep_lines=True))


def say_part(text: str, file: TextIO, *, is_dimmed: bool = False) -> None:
    """Print a part of a text at once, dimmed on a terminal with colours; its lines stay lines."""
    plain = visible(text, keep_lines=True)
    has_colours = file.isatty() and os.environ.get("TERM") != "dumb"
    if is_dimmed and has_colours and not os.environ.get("NO_COLOR"):
        plain = f"\x1b[2m{plain}\x1b[0m"
    print(plain, end="", file=file, flush=True)


def say_lines(lines: Iterable[str]) -> None:
    """Print lines; a line stays one, whatever is in it."""
    print("\n".join(map(visible, lines)))


def complain(text: str) -> None:
    """Print a message or an error to stderr."""
    print(visible(text, keep_lines=True), file=sys.stderr, flush=True)


def print_json(document: object) -> None:
    """Print one JSON document."""
    print(_escaped(json.dumps(document, indent=2, ensure_ascii=False, default=str)))


def print_json_line(row: object) -> None:
    """Print one JSON document on one line."""
    print(_escaped(json.dumps(row, ensure_ascii=False, default=str)))


def _escaped(text: str) -> str:
    """Return a JSON text with each character that is not plain as the escape of itself.

    Outside of strings a JSON text has plain characters and line ends only.
    """
    if text.replace("\n", "").isprintable():
        return text
    return "".join(
        char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text
    )


def print_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print the traceback of a bug; `sys.excepthook` of the command line."""
    complain("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"))
