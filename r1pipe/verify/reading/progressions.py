"""Lists with dots: 1, 2, ..., 10 is written out where whole numbers say how it goes on."""

from __future__ import annotations

import re

from r1pipe.verify.reading.values import UnreadableError

MAX_WRITTEN = 64
_WHOLE = re.compile(r"-?[0-9]{1,6}")


def spelled_out(parts: list[str]) -> list[str]:
    """Return the items of a list, those that dots stand for included.

    Dots between whole numbers that go on by one step are written out. Any others raise: what they
    stand for is not said.
    """
    if r"\ldots" not in parts and "..." not in parts:
        return parts
    place = parts.index(r"\ldots" if r"\ldots" in parts else "...")
    before, after = parts[:place], parts[place + 1 :]
    if len(before) < 2 or len(after) != 1 or not all(map(_WHOLE.fullmatch, before + after)):
        raise UnreadableError("dots that stand for anything")
    first, step, last = int(before[0]), int(before[1]) - int(before[0]), int(after[0])
    count = (last - first) // step + 1 if step else 0
    numbers = [str(first + step * index) for index in range(min(count, MAX_WRITTEN + 1))]
    is_regular = numbers[: len(before)] == before and numbers[-1:] == after
    if not is_regular or len(numbers) > MAX_WRITTEN:
        raise UnreadableError("dots that do not go on by one step")
    return numbers
