"""Markdown and its YAML head from text of others, which stays text whatever is in it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from r1pipe.text import visible

SPECIAL = re.compile(r"[^\w ,.%=-]|_|(?<=www)\.")
"""What may be markup, HTML or the address of a link; `\\w` has the letters of every script."""


def plain(text: str) -> str:
    """Return Markdown that shows a text as it is, on one line.

    >>> plain("<b>*a*|1.5")
    '&#60;b&#62;&#42;a&#42;&#124;1.5'
    """
    return SPECIAL.sub(lambda found: f"&#{ord(found[0])};", visible(text))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; the heads are Markdown, the cells are text."""
    lines = [heads, ["---"] * len(heads), *([plain(cell) or "-" for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fenced(text: str, language: str = "") -> str:
    """Return a block of code whose fence is longer than any in the text."""
    ticks = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, ticks + 1)
    return f"{fence}{language}\n{visible(text, keep_lines=True)}\n{fence}"


def head(fields: Mapping[str, object]) -> str:
    """Return the YAML head of a card; each value is JSON, which YAML reads as the same."""
    lines = [f"{name}: {json.dumps(value)}" for name, value in fields.items() if value]
    return "\n".join(["---", *lines, "---"])
