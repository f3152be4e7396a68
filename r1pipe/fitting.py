"""Tables that fit a window: nothing without content, long cells cut, blocks where it is narrow."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import TextIO

from r1pipe.text import BARS, display_width, sparkline, table_lines, visible

ELLIPSIS = "\u2026"
NOTHING = frozenset({"", "-", "0", "0.0", "0.000"})
"""Cells that say nothing: a column of them is left out."""
MIN_CELL = 12
"""Columns of a cell below which it is not cut: numbers, times and short ids stay whole."""


def fitted_lines(
    rows: Sequence[Sequence[str]], width: int | None, *, spare: Sequence[str] = ()
) -> list[str]:
    """Return a table, its header first, that fits a window of `width` columns; None is a pipe.

    Columns with nothing but dashes and zeros are left out. Where the rest is too wide, long cells
    are cut, those of the first column last; then the columns named in `spare` go, one by one; then
    each row becomes a block: its first cell, and below it the others by name.
    """
    columns = [
        column
        for column in range(len(rows[0]) if rows else 0)
        if column == 0 or any(row[column].strip() not in NOTHING for row in rows[1:])
    ]
    rows = [[visible(row[column]) for column in columns] for row in rows]
    if width is None or not rows:
        return table_lines(rows)
    waiting = [name for name in spare if name in rows[0]]
    while (widths := _widths(rows, width)) is None:
        if not waiting:
            return _blocks(rows, width)
        gone = rows[0].index(waiting.pop(0))
        rows = [[*row[:gone], *row[gone + 1 :]] for row in rows]
    return table_lines(
        [[elided(cell, most) for cell, most in zip(row, widths, strict=True)] for row in rows]
    )


def _widths(rows: Sequence[Sequence[str]], width: int) -> list[int] | None:
    """Return the width of each column of a table that fits, None if none does."""
    widths = [max(display_width(row[column]) for row in rows) for column in range(len(rows[0]))]
    while (over := sum(widths) + 2 * (len(widths) - 1) - width) > 0:
        others = [column for column in range(1, len(widths)) if widths[column] > MIN_CELL]
        if not others and widths[0] - over < MIN_CELL:
            return None
        widest = max(others, key=widths.__getitem__, default=0)
        widths[widest] -= 1
    return widths


def _blocks(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return each row as a block of lines; cells that say nothing are left out."""
    header, *body = rows
    label = max(map(display_width, header[1:]), default=0)
    lines = []
    for row in body:
        lines.append(elided(row[0], width))
        for name, cell in zip(header[1:], row[1:], strict=True):
            if cell.strip() not in NOTHING:
                lines.append(elided(f"  {name:<{label}}  {cell}", width))
    return lines


def wrapped_lines(lines: Iterable[str], width: int | None) -> list[str]:
    """Return lines of text broken at spaces so that they fit a window; what goes on is indented by
    two columns more."""
    if width is None:
        return list(lines)
    return [part for line in lines for part in _wrapped(visible(line), width)]


def _wrapped(line: str, width: int) -> list[str]:
    indent = line[: len(line) - len(line.lstrip())] + "  "
    return wrap(line, width, subsequent_indent=indent, break_on_hyphens=False) or [""]


def elided(text: str, width: int) -> str:
    """Return a text cut to a width, with a mark where it was cut.

    >>> elided("rejection-sample", 12) in ("rejection-s\u2026", "rejection...")
    True
    """
    if display_width(text) <= width:
        return text
    mark = ELLIPSIS if sparkline([0.0])[0] in BARS else "..."
    while text and display_width(text) + len(mark) > width:
        text = text[:-1]
    return text + mark


def window_width(stream: TextIO) -> int | None:
    """Return the columns of the terminal behind a stream, None for a pipe or a file."""
    return _window(stream, "COLUMNS", 0)


def window_height(stream: TextIO) -> int | None:
    """Return the lines of the terminal behind a stream, None for a pipe or a file."""
    return _window(stream, "LINES", 1)


def _window(stream: TextIO, variable: str, place: int) -> int | None:
    if not stream.isatty():
        return None
    if (told := os.environ.get(variable, "")).isdecimal() and int(told):
        return int(told)
    try:
        return os.get_terminal_size(stream.fileno())[place] or None
    except (OSError, ValueError):
        return None
