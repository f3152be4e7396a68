"""Numerals in a base: 221_3, (2.11)_3, AB_{16}, "1011 in base 2"."""

from __future__ import annotations

import re
from fractions import Fraction

from r1pipe.verify.reading.naming import TEXT
from r1pipe.verify.reading.values import UnreadableError

_BASES = [
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
]
_NAMES = {name: base for base, name in enumerate(_BASES, start=2)} | {"sixteen": 16}
_BASE = rf"(?P<base>[0-9]{{1,2}}|{'|'.join(_NAMES)})"
_NUMERAL = re.compile(
    r"(?P<sign>-?)\(?(?P<digits>[0-9][0-9A-Fa-f]*(?:\.[0-9A-Fa-f]+)?|[A-Fa-f]+[0-9][0-9A-Fa-f]*"
    rf"|[A-Fa-f]{{2,}})\)?(?:_\(?{_BASE}\)?|\(?(?:in)?base{_BASE.replace('base>', 'named>')}\)?)"
)
_GROUPS = re.compile(r"(?<=[0-9]),(?=[0-9]{3})")


def read_numeral(text: str) -> tuple[str, int, Fraction] | None:
    """Return a numeral's digits with their sign, its base and its value; None if it is none."""
    if "_" not in text and "base" not in text:
        return None
    bare = re.sub(r"[\s{}]", "", TEXT.sub(r"\1", text))
    match = _NUMERAL.fullmatch(_GROUPS.sub("", bare))
    if match is None:
        return None
    written = match["base"] or match["named"]
    base = _NAMES.get(written) or int(written)
    digits = match["digits"].upper()
    if not 2 <= base <= 36:
        return None
    whole, _, part = digits.partition(".")
    try:
        value = Fraction(int(whole + part, base), base ** len(part))
    except ValueError:
        raise UnreadableError("a digit that its base lacks") from None
    sign = match["sign"]
    return sign + digits, base, -value if sign else value
