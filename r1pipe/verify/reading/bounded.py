"""Arithmetic on sympy numbers that refuses what would not fit in memory or time.

Sympy computes a numeric power or factorial at once, so the size is checked before it is asked.
"""

from __future__ import annotations

import math

import sympy as sp

from r1pipe.verify.reading.values import TooBigError, UnreadableError

MAX_DIGITS = 20_000
MAX_FACTORIAL = 5_000
MAX_EXPONENT = 5_000


def divide(top: sp.Expr, bottom: sp.Expr) -> sp.Expr:
    """Divide; by zero is no value."""
    if bottom == 0:
        raise UnreadableError("division by zero")
    return top / bottom


def power(base: sp.Expr, exponent: sp.Expr) -> sp.Expr:
    """Raise to a power; a numeric one whose digits would not fit is refused."""
    if base.is_number and exponent.is_number:
        size = abs(_magnitude(exponent))
        if size * max(1.0, abs(_log10(base))) > MAX_DIGITS:
            raise TooBigError("a number too big to write out")
        if base == 0 and exponent.is_positive is not True:
            raise UnreadableError("zero to a power that is not positive")
    value = base**exponent
    if value.is_Pow and value.exp.is_number and _magnitude(value.exp) > MAX_EXPONENT:
        raise TooBigError("an exponent too big to work with")
    return value


def _magnitude(value: sp.Expr) -> float:
    """Return |value| as a float, for guards only."""
    if isinstance(value, sp.Rational):
        bits = value.p.bit_length() - value.q.bit_length()
        return float("inf") if bits > 60 else float(abs(int(value.p) / int(value.q)))
    try:
        return float(abs(complex(value.evalf(5))))
    except (TypeError, ValueError, OverflowError):
        return float("inf")


def _log10(base: sp.Expr) -> float:
    if isinstance(base, sp.Rational):
        return 0.30103 * max(int(base.p).bit_length(), int(base.q).bit_length())
    size = _magnitude(base)
    if size in (0.0, float("inf")):
        return 1.0
    return float(abs(math.log10(size)))


def factorial(value: sp.Expr) -> sp.Expr:
    """Return n!; of a number only for whole n up to 5,000."""
    if value.is_number and not (value.is_Integer and 0 <= value <= MAX_FACTORIAL):
        raise TooBigError("a factorial too big to write out")
    return sp.factorial(value)


def double_factorial(value: sp.Expr) -> sp.Expr:
    """Return n!!; of a number only for whole n up to 5,000."""
    if value.is_number and not (value.is_Integer and -1 <= value <= MAX_FACTORIAL):
        raise TooBigError("a factorial too big to write out")
    return sp.factorial2(value)


def binomial(top: sp.Expr, bottom: sp.Expr) -> sp.Expr:
    """Return n over k; of numbers only for whole ones with n up to 5,000."""
    is_whole = top.is_Integer and bottom.is_Integer
    if top.is_number and bottom.is_number and not (is_whole and abs(top) <= MAX_FACTORIAL):
        raise TooBigError("a binomial coefficient too big to write out")
    return sp.binomial(top, bottom)
