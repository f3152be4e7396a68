"""Numbers in words: English to ninety-nine, Chinese to the hundred millions."""

from __future__ import annotations

import re
from fractions import Fraction

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen twenty"
)
_ENGLISH = {word: value for value, word in enumerate(_SMALL.split())}
_TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60} | {
    "seventy": 70,
    "eighty": 80,
    "ninety": 90,
}
_DIGITS = {digit: value for value, digit in enumerate("零一二三四五六七八九")} | {"两": 2}
_PLACES = {"十": 10, "百": 100, "千": 1000}
_LARGE = {"万": 10**4, "亿": 10**8}
_CHINESE = re.compile("[零一二三四五六七八九两十百千万亿]{1,12}")
_COUNTED = re.compile(
    "([零一二三四五六七八九两十百千万]{1,12})([^零一二三四五六七八九两十百千万分]{1,4})"
)


def number_word(text: str) -> int | None:
    """Return the value of a number in words, else None."""
    bare = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text).strip().lower()
    if bare in _ENGLISH:
        return _ENGLISH[bare]
    if _CHINESE.fullmatch(bare):
        return _chinese(bare)
    tens, _, ones = bare.replace(" ", "-").partition("-")
    if tens in _TENS:
        one = _ENGLISH.get(ones, -1) if ones else 0
        return _TENS[tens] + one if 0 <= one < 10 else None
    return None


def worded_number(text: str) -> tuple[Fraction, str] | None:
    """Return a value in words and what is behind it: a unit, a percent sign, or ""."""
    whole = number_word(text)
    if whole is not None:
        return Fraction(whole), ""
    if text == "一半":
        return Fraction(1, 2), ""
    bottom, is_share, top = text.partition("分之")
    if is_share:
        parts = number_word(top), number_word(bottom)
        if parts[0] is None or not parts[1]:
            return None
        return (Fraction(parts[0]), "%") if bottom == "百" else (Fraction(parts[0], parts[1]), "")
    counted = _COUNTED.fullmatch(text)
    value = number_word(counted[1]) if counted is not None else None
    return None if counted is None or value is None else (Fraction(value), counted[2])


def _chinese(text: str) -> int | None:
    """Add digits times their places; a digit must have a place, or stand last."""
    total, section, digit = 0, 0, 0
    for place, char in enumerate(text):
        if char in _DIGITS:
            if digit:
                return None
            digit = _DIGITS[char]
        elif char in _PLACES:
            section += (digit or (1 if place == 0 or char == "十" else 0)) * _PLACES[char]
            digit = 0
        else:
            total = (total + section + digit) * _LARGE[char]
            section, digit = 0, 0
    return total + section + digit
