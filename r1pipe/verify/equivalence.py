"""The fast, exact layer: decides in microseconds what needs no algebra, else returns None.

Nothing here calls sympy; what is left over goes to `symbolic` inside a killable worker.
"""

from __future__ import annotations

import re
from functools import lru_cache

from r1pipe.verify.answers.compare import Comparer, same_choice
from r1pipe.verify.answers.normalise import plain
from r1pipe.verify.answers.numbers import Quantity, parse_plain_quantity, same_quantity
from r1pipe.verify.answers.structure import Reader
from r1pipe.verify.answers.values import Scalar, UnreadableError, Value

MAX_ANSWER_CHARS = 300
MAX_DEPTH = 12
MAX_GOLD_CHARS = 2000
_WHOLE = re.compile(r"-?[0-9]{1,18}")
_BARE_LETTER = re.compile(r"(.*[0-9}]) +([a-zA-Z])")
_LOOSE_SPACE = re.compile(r"(?<![0-9a-zA-Z,]) +| +(?![0-9a-zA-Z])|(?<=,) +(?![0-9]{3})")


@lru_cache(maxsize=16384)
def read_gold(gold: str) -> tuple[str, Quantity | None]:
    """Return the gold answer in its plain spelling, and as a quantity where it is one."""
    text = plain(gold)
    return text, parse_plain_quantity(text)


def decide(gold: str, answer: str) -> bool | None:
    """Return whether the answer is right, or None if algebra has to decide.

    An answer over 300 characters or nested over 12 deep is wrong: honest ones are shorter, and
    most hostile ones are not.
    """
    if len(answer) > 4 * MAX_ANSWER_CHARS:
        return False
    if _WHOLE.fullmatch(answer) and _WHOLE.fullmatch(gold):
        return int(answer) == int(gold)
    text, quantity = read_gold(gold)
    candidate = plain(answer)
    if squeeze(candidate) == squeeze(text):
        return True
    if len(candidate) > MAX_ANSWER_CHARS or depth(candidate) > MAX_DEPTH:
        return False
    if quantity is not None:
        given = parse_plain_quantity(candidate)
        if given is None and quantity.unit is not None:
            given = _with_bare_letter(candidate)
        if given is not None:
            return same_quantity(quantity, given)
    if not candidate:
        return False
    choice = same_choice(text, candidate)
    return _by_structure(text, candidate) if choice is None else choice


def _with_bare_letter(text: str) -> Quantity | None:
    """Read `5 m` as metres if the gold answer has a unit."""
    match = _BARE_LETTER.fullmatch(text)
    return parse_plain_quantity(rf"{match[1]}\text{{ {match[2]}}}") if match is not None else None


def reads_exactly(gold: str) -> bool:
    """Return True when the exact layer can read the whole answer by itself."""
    text, quantity = read_gold(gold)
    if quantity is not None or (len(text) <= MAX_ANSWER_CHARS and same_choice(text, text)):
        return True
    values, is_complete = _read_structure(text)
    return bool(values) and is_complete


def _by_structure(gold: str, answer: str) -> bool | None:
    """Compare sets, tuples, intervals and the like whose leaves are all rational."""
    golds, is_gold_complete = _read_structure(gold)
    if not golds:
        return None
    answers, is_complete = _READER.read_all(answer)
    if _COMPARER.any_same(golds, answers):
        return True
    return False if is_complete and is_gold_complete and answers else None


@lru_cache(maxsize=16384)
def _read_structure(text: str) -> tuple[list[Value], bool]:
    return _READER.read_all(text)


def _rational_scalar(text: str) -> Scalar:
    quantity = parse_plain_quantity(text)
    if quantity is None or quantity.name:
        raise UnreadableError("not a rational number")
    return Scalar(quantity.value, quantity.unit, quantity.is_percent)


_READER = Reader(_rational_scalar)
_COMPARER = Comparer(lambda left, right: bool(left == right))


def squeeze(text: str) -> str:
    """Return text without spaces that no answer depends on; `1, 234` is a list, `1,234` is not."""
    return _LOOSE_SPACE.sub("", text)


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
