"""Format numbers, tables and model-written text for a terminal, safely."""

from __future__ import annotations

import difflib
import itertools
import math
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence

SHORT_ID_CHARS = 8
MAX_LISTED = 40
_USER = re.compile(r"://[^/\s@'\"]{1,300}@")
BARS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
ASCII_BARS = "_.-=+*%#"


def visible(text: str, keep_lines: bool = False) -> str:
    """Return text with every character that moves the cursor or reorders the line written out.

    >>> visible("a\\x1b[31mb\\u202ec\\n")
    'a\\\\x1b[31mb\\\\u202ec\\\\n'
    """
    if text.isprintable():
        return text
    return "".join(
        char
        if char.isprintable() or (keep_lines and char == "\n")
        else char.encode("unicode_escape", "backslashreplace").decode()
        for char in text
    )


def without_passwords(text: str) -> str:
    """Return text without the users and passwords of the addresses in it.

    >>> without_passwords("http://me:secret@host/v1")
    'http://[hidden]@host/v1'
    """
    return _USER.sub("://[hidden]@", text)


def excerpt(text: str, max_chars: int) -> str:
    """Return text on one line, safe for a terminal; of a long one the beginning and the end.

    >>> excerpt("one\\ntwo", 20), excerpt("0123456789", 6)
    ('one\\\\ntwo', '0123 ... 89 (10 characters)')
    """
    if len(text) <= max_chars:
        return visible(text)
    end = max_chars // 3
    head, tail = text[: max_chars - end], text[len(text) - end :]
    return f"{visible(head)} ... {visible(tail)} ({len(text)} characters)"


def listed(names: Sequence[object], most: int) -> str:
    """Return the first `most` of some names, and how many more there are.

    >>> listed(["a", "b"], 2), listed(["a", "b", "c"], 2)
    ('a, b', 'a, b and 1 more')
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def did_you_mean(
    name: str,
    known: Iterable[str],
    otherwise: str | None = None,
    shown: Callable[[str], str] = str,
) -> str:
    """Return what helps who gave an unknown name: the nearest known one, or those there are.

    Where none is near, `otherwise` is said if it is given. `shown` makes of a known name what is to
    be written.

    >>> did_you_mean("lables", ["labels", "rows"]), did_you_mean("x", ["labels", "rows"])
    ("did you mean 'labels'?", 'there are labels, rows')
    >>> did_you_mean("x", ["rows"], "give one"), did_you_mean("row", ["rows"], shown=str.upper)
    ('give one', "did you mean 'ROWS'?")
    """
    names = list(known)
    close = difflib.get_close_matches(name, names, 1)
    if close:
        return f"did you mean {shown(close[0])!r}?"
    if otherwise is not None:
        return otherwise
    return f"there are {listed([shown(each) for each in names], MAX_LISTED)}"


def short_id(identifier: str | None) -> str:
    """Return the first characters of an id, enough to tell ids apart."""
    return identifier[:SHORT_ID_CHARS] if identifier else "-"


def format_duration(seconds: float) -> str:
    """Return a time as one or two units.

    >>> [format_duration(s) for s in (0.04, 9.96, 75, 3700, 200_000)]
    ['0.0 s', '10.0 s', '1 min 15 s', '1 h 01 min', '2 d 07 h']
    """
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600:02d} h"


def format_bytes(size: float) -> str:
    """Return a size with a binary unit.

    >>> [format_bytes(size) for size in (0, 1536, 5 * 1024**3)]
    ['0 B', '1.5 KiB', '5.0 GiB']
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def format_number(value: float) -> str:
    """Return a number with about four significant digits.

    >>> [format_number(value) for value in (3, 0.41237, 12345.6, 2e-5, 0.0)]
    ['3', '0.4124', '12,346', '2e-05', '0']
    """
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """Return a line of bars for a curve; each bar is the mean of its share of the points.

    >>> sparkline([0, 1, 2, 3]).encode().decode("utf-8") in ("\u2581\u2583\u2586\u2588", "_-*#")
    True
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    count = min(width, len(finite))
    edges = [len(finite) * index // count for index in range(count + 1)]
    means = [sum(finite[start:end]) / (end - start) for start, end in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    bars = BARS if _can_print(BARS) else ASCII_BARS
    span = (high - low) or 1.0
    return "".join(bars[round((mean - low) / span * (len(bars) - 1))] for mean in means)


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def table_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as aligned columns, two spaces apart; a cell is one line, safe to print."""
    if not rows:
        return []
    rows = [[visible(cell) for cell in row] for row in rows]
    widths = [max(display_width(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell + " " * (width - display_width(cell))
            for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def display_width(text: str) -> int:
    """Return how many columns a text takes: Chinese characters take two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
