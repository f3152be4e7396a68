"""A table of units: which quantities are comparable, and the exact factor between them.

A unit is a product of powers of dimensions with a rational factor to the base unit. Words that are
not in the table (apples, students) are nouns; counting words (Chinese classifiers) go with any
noun.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from importlib import resources

_MAX_UNIT_CHARS = 60
_MAX_POWER = 12


@dataclass(frozen=True, slots=True)
class Unit:
    """Dimensions to their powers, a factor to the base units, or a noun the table lacks."""

    powers: tuple[tuple[str, int], ...] = ()
    factor: Fraction = Fraction(1)
    noun: str = ""

    @property
    def is_counter(self) -> bool:
        """True for a counting word, which fits every noun."""
        return self.powers == (("count", 1),)


def _table(spec: Mapping[str, Mapping[str, str]]) -> dict[str, Unit]:
    table: dict[str, Unit] = {}
    for dimension, units in spec.items():
        powers = _powers(dimension)
        for names, factor in units.items():
            for name in names.split():
                table[name.replace("_", " ")] = Unit(powers, Fraction(factor))
    return table


def _powers(dimension: str) -> tuple[tuple[str, int], ...]:
    pairs = (part.partition("^") for part in dimension.split())
    return tuple(sorted((name, int(power or 1)) for name, _, power in pairs))


_SPEC = json.loads((resources.files("r1pipe.verify.reading") / "units.json").read_text("utf-8"))
_UNITS = _table(_SPEC)
_SQUARE_WORDS = {"square": 2, "sq": 2, "sq.": 2, "cubic": 3, "cu": 3, "平方": 2, "立方": 3}
_POWER_WORDS = {"squared": 2, "cubed": 3}
_TEXT_COMMAND = re.compile(
    r"\\(?:text|mathrm|textrm|textbf|textit|operatorname|rm|mbox|hbox|textnormal)(?![a-zA-Z])\s*\*?"
)
_POWER = re.compile(r"\^\s*\{?\s*([+-]?[0-9]{1,2})\s*\}?")
_QUOTIENT = re.compile(
    r"\\[dt]?frac\s*\{\s*\{?([^{}]{1,20})\}?\s*\}\s*\{\s*\{?([^{}]{1,20})\}?((?:\s*\^[^{}]{1,3})?)\s*\}"
)
_BEHIND = re.compile(
    r"\s+(?:each|long|wide|tall|high|deep|away|apart|total|in total|altogether)\s*$"
)
_JOIN = re.compile(r"\\(?:cdot|times)(?![a-zA-Z])|[*\u00b7.](?=\s*[a-zA-Z])")
_NO_NOUN = re.compile(
    r"\b(?:or|and|more|less|fewer|than|least|most|about|approximately|roughly|not|maybe|perhaps|if|when"
    r"|up|to|over|under|between|pi|sqrt|sin|cos|tan|cot|sec|csc|log|ln|exp|inf|infinity|mod|gcd|lcm"
    r"|max|min|abs|else|is|are|for|in range)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W\d_]+(?:[-'][^\W\d_]+)*")


@lru_cache(maxsize=4096)
def parse_unit(text: str) -> Unit | None:
    """Return the unit that `text` names, or None if it is no unit (a variable, an expression).

    A single letter is a unit only inside `\\text{}` or `\\mathrm{}`; elsewhere it is a variable.

    >>> parse_unit("km/h").factor
    Fraction(5, 18)
    """
    if not text or len(text) > _MAX_UNIT_CHARS or _JOIN.match(text.strip()):
        return None
    is_marked = _TEXT_COMMAND.search(text) is not None
    bare = _TEXT_COMMAND.sub(" ", text).replace("{\\circ}", "\\circ")
    bare = _BEHIND.sub("", _JOIN.sub(" ", _QUOTIENT.sub(r"\1/\2\3", bare)))
    if re.search(r"[=<>()\[\]|&\\](?!circ|\$|Omega)", bare):
        return None
    bare = _POWER.sub(r"^\1 ", bare).replace("{", " ").replace("}", " ")
    bare = re.sub(r"\^\\circ\s*", r"^\\circ", bare)
    bare = re.sub(r" (?=\^[+-]?\d)", "", re.sub(r"\s+", " ", bare)).strip(" .")
    if not bare or (len(bare) == 1 and bare.isascii() and bare.isalpha() and not is_marked):
        return None
    return _known(bare) or _product(bare) or _noun(bare)


def _known(name: str) -> Unit | None:
    if name in _UNITS:
        return _UNITS[name]
    lower = name.lower()
    if len(lower) > 2 and lower in _UNITS:
        return _UNITS[lower]
    return None


def _product(text: str) -> Unit | None:
    """Parse `kg m/s^2`, `miles per hour`, `square feet`; None where a factor is unknown."""
    text = re.sub(r"\bper\b|每", "/", text)
    pieces = text.split("/")
    powers: dict[str, int] = {}
    factor = Fraction(1)
    for index, piece in enumerate(pieces):
        factors = _factors(piece)
        if factors is None:
            return None
        for unit, power in factors:
            signed = -power if index else power
            factor *= unit.factor**signed
            for name, exponent in unit.powers:
                powers[name] = powers.get(name, 0) + exponent * signed
    kept = tuple(sorted((name, power) for name, power in powers.items() if power))
    return Unit(kept, factor) if kept else None


def _factors(piece: str) -> list[tuple[Unit, int]] | None:
    """Split `square cm` or `m^{2} s^{-1}` into units with powers."""
    words = _POWER.sub(r"^\1 ", piece).split()
    factors: list[tuple[Unit, int]] = []
    ahead = 1
    for word in words:
        name, power = _split_power(word)
        if name.lower() in _SQUARE_WORDS:
            ahead = _SQUARE_WORDS[name.lower()]
            continue
        if name.lower() in _POWER_WORDS and factors:
            factors[-1] = (factors[-1][0], factors[-1][1] * _POWER_WORDS[name.lower()])
            continue
        unit = _known(name)
        exponent = ahead * int(power or 1)
        if unit is None or abs(exponent) > _MAX_POWER:
            return None
        factors.append((unit, exponent))
        ahead = 1
    return factors or None


def _split_power(word: str) -> tuple[str, str]:
    """Split `cm^-2` into name and exponent; what has no integer exponent is all name."""
    name, _, power = word.rpartition("^")
    return (name, power) if name and re.fullmatch(r"[+-]?[0-9]{1,2}", power) else (word, "")


def _noun(text: str) -> Unit | None:
    """Take words that the table lacks as a noun; its last word, in the singular, is its head.

    Words of mathematics and of hedging are none, and nor are two letters: those are variables.
    """
    if _NO_NOUN.search(text) or "分之" in text or re.fullmatch("[a-zA-Z]{2}", text):
        return None
    if not all(_WORD.fullmatch(word) for word in text.split()):
        return None
    head = text.split()[-1].lower()
    if len(head) == 1 and head.isascii():
        return None
    return Unit(noun=_singular(head))


def _singular(word: str) -> str:
    if word in ("people", "persons", "person"):
        return "person"
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def conversion(unit: Unit, other: Unit) -> Fraction | None:
    """Return the factor from `unit` to `other`, or None where the two conflict."""
    if unit.noun or other.noun:
        fits = unit.noun == other.noun or unit.is_counter or other.is_counter
        return Fraction(1) if fits else None
    if unit.is_counter and other.is_counter:
        return Fraction(1)
    return unit.factor / other.factor if unit.powers == other.powers else None
