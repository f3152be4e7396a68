"""The fast, exact layer: decides in microseconds what needs no algebra, and says so when it cannot.

Nothing here calls sympy; what is left over goes to `symbolic` inside a killable worker.
"""

from __future__ import annotations

import re
from functools import lru_cache

from r1pipe.verify.normalise import plain
from r1pipe.verify.numbers import Quantity, parse_plain_quantity, same_quantity

MAX_ANSWER_CHARS = 300
MAX_DEPTH = 12
MAX_GOLD_CHARS = 2000


@lru_cache(maxsize=16384)
def read_gold(gold: str) -> tuple[str, Quantity | None]:
    """Return the gold answer in its plain spelling, and as a quantity where it is one."""
    text = plain(gold)
    return text, parse_plain_quantity(text)


def decide(gold: str, answer: str) -> bool | None:
    """Return whether the answer is right where that is plain, None where algebra has to say.

    An answer over 300 characters or nested over 12 deep is wrong: honest ones are shorter, and
    most hostile ones are not.
    """
    if len(answer) > 4 * MAX_ANSWER_CHARS:
        return False
    text, quantity = read_gold(gold)
    candidate = plain(answer)
    if squeeze(candidate) == squeeze(text):
        return True
    if len(candidate) > MAX_ANSWER_CHARS or depth(candidate) > MAX_DEPTH:
        return False
    if quantity is not None:
        given = parse_plain_quantity(candidate)
        if given is not None:
            return same_quantity(quantity, given)
    return None if candidate else False


def squeeze(text: str) -> str:
    """Return text without spaces that no answer depends on."""
    return re.sub(r"(?<![0-9a-zA-Z]) +| +(?![0-9a-zA-Z])", "", text)


def depth(text: str) -> int:
    """Return how deep brackets of any kind nest (closers never count below zero)."""
    level = deepest = 0
    for char in text:
        if char in "([{":
            level += 1
            deepest = max(deepest, level)
        elif char in ")]}":
            level = max(0, level - 1)
    return deepest
