"""The fast, exact layer: decides in microseconds what needs no algebra, else returns None.

Nothing here calls sympy; what is left over goes to `symbolic` inside a killable worker.
"""

from __future__ import annotations

import re
from functools import lru_cache

from r1pipe.verify.comparing.choices import same_choice, split_option
from r1pipe.verify.comparing.comparer import Comparer
from r1pipe.verify.comparing.quantities import same_number
from r1pipe.verify.reading.clocks import read_compound
from r1pipe.verify.reading.normalise import plain
from r1pipe.verify.reading.numbers import parse_plain_quantity
from r1pipe.verify.reading.numerals import read_numeral
from r1pipe.verify.reading.structure import Reader
from r1pipe.verify.reading.values import Scalar, UnreadableError, Value

MAX_ANSWER_CHARS = 300
MAX_DEPTH = 12
MAX_GOLD_CHARS = 2000
_WHOLE = re.compile(r"-?[0-9]{1,18}")
_BARE_LETTER = re.compile(r"(.*[0-9}]) *(\\?[a-zA-Z]|\\Omega)")
_PROSE = re.compile(r"[\u4e00-\u9fff]|(?<![\\a-zA-Z])[a-zA-Z]{4,}")
_BLANK_LETTER = re.compile(r" \\?[a-zA-Z]+$")
_ONE_IN_BRACES = re.compile(r"(?<![a-zA-Z\\])\{([0-9a-zA-Z])\}")
_SHORT_FRACTION = re.compile(r"\\frac\s*\{?([0-9])\}?\s*\{?([0-9a-zA-Z])\}?(?![0-9a-zA-Z}])")
_TEXT_DRESS = re.compile(r"\\text\s*(?=\{)")
_CONDITION = re.compile(r"\b(?:if|when|for|otherwise)\b")
_LOOSE_SPACE = re.compile(r"(?<![0-9a-zA-Z,]) +| +(?![0-9a-zA-Z])|(?<=,) +(?![0-9]{3})")


@lru_cache(maxsize=16384)
def read_gold(gold: str) -> tuple[str, Scalar | None]:
    """Return the gold answer in its plain spelling, and as a quantity where it is one."""
    text = plain(gold)
    quantity = parse_plain_quantity(text)
    compound = read_compound(text) if quantity is None else None
    return text, quantity if compound is None else Scalar(*compound)


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
            return same_number(quantity, given)
    if not candidate:
        return False
    if quantity is None and ("$" not in gold and _in_bare_unit(text, candidate)):
        return True
    return _by_form(text, candidate)


def _by_form(gold: str, answer: str) -> bool | None:
    """Decide by spelling, choices and structure, once numbers have not decided."""
    if spelling(gold) == spelling(answer):
        return True
    option = split_option(gold)
    if option is not None:
        letter, own = option
        is_letter = same_choice(letter, answer)
        given = split_option(answer)
        if is_letter and given is not None and not _PROSE.search(own):
            return decide(own, given[1])
        if is_letter:
            return True
        return is_letter if is_letter is not None else decide(own, answer)
    choice = same_choice(gold, answer)
    if choice is not None:
        return choice
    numeral = read_numeral(gold)
    if numeral is not None and numeral[0] == answer.replace(" ", "").upper():
        return True  # the base may be left out
    return _by_structure(gold, answer)


def _in_bare_unit(gold: str, answer: str) -> bool:
    """Compare with a gold answer such as `10 N`: behind a blank, the letter of a unit is one.

    Keys write products without the blank, or between dollars; as a product it is read besides.
    """
    quantity = _with_bare_letter(gold) if _BLANK_LETTER.search(gold) else None
    if quantity is None or quantity.unit is None or quantity.unit.noun:
        return False
    given = parse_plain_quantity(answer) or _with_bare_letter(answer)
    return given is not None and same_number(quantity, given)


def _with_bare_letter(text: str) -> Scalar | None:
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
    return _READER.read_gold(text)


def _rational_scalar(text: str) -> Scalar:
    quantity = parse_plain_quantity(text)
    if quantity is None or quantity.name:
        raise UnreadableError("not a rational number")
    return quantity


_READER = Reader(_rational_scalar)
_COMPARER = Comparer(lambda left, right: bool(left == right))


def offers_choice(gold: str) -> bool:
    """Return whether a gold answer itself says "or"; for any other an "or" is a hedge."""
    return re.search(r"\bor\b|\\lor|或", gold) is not None


def spelling(text: str) -> str:
    """Return text without blanks, and without braces around one sign: x^{2} is x^2.

    This alone compares gold answers that no reader knows. The parts of one with conditions may
    come in any order.
    """
    text = squeeze(_ONE_IN_BRACES.sub(r"\1", _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text)))
    if not _CONDITION.search(text):
        return text
    parts = re.split(r"[,;]|\band\b", _TEXT_DRESS.sub(" ", text))
    return ",".join(sorted(" ".join(re.sub(r"[{}]", " ", part).split()) for part in parts))


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
