"""Programs in the text of a completion, and the outputs that followed when they were run."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from r1pipe.sandbox.runners import RUNNERS
from r1pipe.settings import Tools

FENCE = re.compile(r"^[ \t]{0,3}```[ \t]*([a-zA-Z0-9+_-]{0,20})[ \t]*$", re.MULTILINE)
CLOSED = re.compile(r"^[ \t]{0,3}```", re.MULTILINE)
OUTPUT = re.compile(r"[^\S\n]*\n??(\n```output\n.*?\n```\n)", re.DOTALL)
"""What `r1pipe.generate.tools` appends after a program's fence, whose token may hold a line break
too."""


def program_of(text: str) -> str | None:
    """Return the first Python program of a text whose block is closed, or None.

    >>> program_of("so\\n```python\\nprint(2)\\n```"), program_of("```python\\nprint(2)\\n")
    ('print(2)\\n', None)
    """
    found = _program(text, 0)
    return None if found is None else text[found[0] : found[1]]


def _program(text: str, place: int) -> tuple[int, int, int] | None:
    """Return where the first closed program from `place` on begins and ends, and its fence."""
    while (opened := FENCE.search(text, place)) is not None:
        start = opened.end() + 1
        closed = CLOSED.search(text, start) if start <= len(text) else None
        if closed is None:
            return None
        if opened[1].lower() in RUNNERS["python"].fences and text[start : closed.start()].strip():
            return start, closed.start(), closed.end()
        place = text.find("\n", closed.end())
        if place < 0:
            return None
    return None


def outputs_with(tools: Tools | None) -> Callable[[str], list[tuple[int, int]]]:
    """Return what finds the outputs in a text; without `tools` there are none."""
    return (lambda text: []) if tools is None else partial(outputs_of, tools=tools)


def outputs_of(text: str, tools: Tools) -> list[tuple[int, int]]:
    """Return where the outputs of programs stand in a completion that ran them
    (`r1pipe.generate.tools`).

    With `ends` it is all that follows the first program, the end of the sequence included: that
    one goes past the text.
    """
    spans, place = list[tuple[int, int]](), 0
    for _ in range(tools.max_rounds):
        found = _program(text, place)
        if found is None:
            break
        if tools.ends:
            return [(found[2], len(text) + 1)]
        output = OUTPUT.match(text, found[2])
        if output is None:
            break  # it was cut here, or the program was never run
        spans.append(output.span(1))
        place = output.end() - 1
    return spans
