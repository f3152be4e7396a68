"""Compare numbers with units, percent signs and names.

A unit or percent sign may be missing on one side; two different ones conflict, unless the table of
units converts one into the other. Exact values only: a rounded decimal is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from operator import eq

from r1pipe.verify.reading.units import conversion
from r1pipe.verify.reading.values import Leaf, Scalar

_PERCENT = Fraction(1, 100)


def same_quantity(gold: Scalar, answer: Scalar, same: Callable[[Leaf, Leaf], bool] = eq) -> bool:
    """Return True when the answer is the gold value; `same` says whether two leaves are equal."""
    if gold.is_percent or answer.is_percent:
        return _same_percent(gold, answer, same)
    if gold.unit is not None and answer.unit is not None:
        factor = conversion(answer.unit, gold.unit)
        return factor is not None and same(gold.value, answer.value * factor)
    return same(gold.value, answer.value)


def _same_percent(gold: Scalar, answer: Scalar, same: Callable[[Leaf, Leaf], bool]) -> bool:
    if gold.unit is not None or answer.unit is not None:
        return False
    if gold.is_percent and answer.is_percent:
        return same(gold.value, answer.value)
    percent, bare = (gold, answer) if gold.is_percent else (answer, gold)
    return same(percent.value, bare.value) or same(percent.value * _PERCENT, bare.value)


def same_number(gold: Scalar, answer: Scalar) -> bool:
    """Return True when two named or bare rationals are equal: `n = 5` and `m = 5` conflict."""
    is_other = gold.name and answer.name and gold.name != answer.name
    return not is_other and same_quantity(gold, answer)
