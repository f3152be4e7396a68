"""Are two exact sympy expressions equal? By structure, then by value at exact points.

Two expressions without variables are compared to hundreds of significant digits, so that neither
tiny nor huge numbers are taken for equal. With variables, they are compared at rational points
where both are real (or anywhere, if they are complex); agreement at all of them to 40 digits is
taken as identity. Functions of integers are compared at integers, exactly.
"""

from __future__ import annotations

import sympy as sp
from sympy.core.evalf import PrecisionExhausted

from r1pipe.verify.reading.functions import Divisor

MAX_SYMBOLS = 8
MAX_POWER, MAX_OPERATIONS = 8, 40
_DIGITS, _MAX_DIGITS, _PROBE_DIGITS = 5, 400, 60
_MIN_PROBES, _NUM_PROBES = 3, 10
_PRIME = 9973  # a large prime below the line: no point is an integer, where poles like to sit
_ROUNDINGS = (sp.floor, sp.ceiling)
_OF_INTEGERS = (sp.factorial, sp.factorial2, sp.binomial, sp.Mod, Divisor)
_REALS = frozenset("xyzrstuvw")
_SMALL, _LARGE = range(1, 13), (15, 20, 23, 37, 58, 97, 128, 251, 500, 1000, 2025)
_MIN_INTEGERS, _NUM_INTEGERS = 6, 64


def same_expression(left: sp.Expr, right: sp.Expr) -> bool:
    """Return True when the two are the same number or the same function of their variables."""
    if left == right:
        return True
    if left.is_Rational and right.is_Rational:
        return False
    if left.has(sp.zoo, sp.nan, sp.oo, -sp.oo) or right.has(sp.zoo, sp.nan, sp.oo, -sp.oo):
        return False
    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    if symbols:
        return _agree_at_points(left, right, symbols)
    return _same_constant(left, right)


def proportional(left: sp.Expr, right: sp.Expr) -> bool:
    """Return True when left = c x right for a constant c that is neither zero nor infinite."""
    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    if symbols and left in (right, -right):
        return True
    if not symbols or left.free_symbols != right.free_symbols or len(symbols) > MAX_SYMBOLS:
        return False
    for point in _points(symbols, left, right):
        ratio = left.subs(point), right.subs(point)
        if all(value.is_number and not _same_constant(value, sp.S.Zero) for value in ratio):
            return _agree_at_points(left * ratio[1], right * ratio[0], symbols)
    return False


def _same_constant(left: sp.Expr, right: sp.Expr) -> bool:
    """Compare two constants to 400 digits; what cannot be computed at all must simplify to zero."""
    difference = left - right
    if difference.is_Rational:
        return bool(difference == 0)
    if _digits_of(difference, _DIGITS, _MAX_DIGITS) is not None:
        return False  # a digit that does not cancel
    values = [_digits_of(side, _PROBE_DIGITS, 2 * _MAX_DIGITS) for side in (left, right)]
    if any(value is None for value in values):
        return bool(sp.simplify(difference) == 0)
    return _close(*values)


def _digits_of(value: sp.Expr, digits: int, max_digits: int) -> sp.Expr | None:
    """Return a constant to so many true digits, or None where they all cancel."""
    try:
        number = value.evalf(digits, maxn=max_digits, strict=True)
    except PrecisionExhausted:
        return None
    return number if _is_complex(number) and number != 0 else None


def _agree_at_points(left: sp.Expr, right: sp.Expr, symbols: list[sp.Symbol]) -> bool:
    if len(symbols) > MAX_SYMBOLS:
        return False
    if _is_small_polynomial(left) and _is_small_polynomial(right):
        return bool((left - right).expand() == 0)
    if not (left.has(sp.core.function.AppliedUndef) or right.has(sp.core.function.AppliedUndef)):
        points, min_agreed = _points(symbols, left, right), _MIN_PROBES
        whole = _integer_symbols(left) | _integer_symbols(right)
        if whole:
            is_rounded = left.has(*_ROUNDINGS) or right.has(*_ROUNDINGS)
            points, min_agreed = _whole_points(symbols, whole, is_rounded), _MIN_INTEGERS
        is_complex = left.has(sp.I) or right.has(sp.I)
        num_agreed = 0
        for point in points:
            values = [_value(side, point) for side in (left, right)]
            if any(value is None or not (is_complex or value.is_real) for value in values):
                continue
            if not _close(*values):
                return False
            num_agreed += 1
        if num_agreed >= min_agreed or (whole and num_agreed):
            return num_agreed >= min_agreed
    return bool(sp.simplify(left - right) == 0)


def _is_small_polynomial(side: sp.Expr) -> bool:
    """Return whether an expression has small whole powers and no functions, and is short."""
    powers = side.atoms(sp.Pow)
    return (
        all(power.exp.is_Integer and 0 < power.exp <= MAX_POWER for power in powers)
        and not side.atoms(sp.Function, sp.NumberSymbol, sp.Float)
        and not side.has(sp.I, sp.Abs, sp.Sum, sp.Integral)
        and side.count_ops() <= MAX_OPERATIONS
    )


def _points(
    symbols: list[sp.Symbol], left: sp.Expr, right: sp.Expr
) -> list[dict[sp.Symbol, sp.Rational]]:
    """Return rational points, positive ones first."""
    points = []
    for shift in range(_NUM_PROBES):
        point = {}
        for index, symbol in enumerate(symbols):
            sign = -1 if shift >= 4 and (shift + index) % 2 else 1
            point[symbol] = sign * _fraction(shift, index)
        points.append(point)
    return points


def _integer_symbols(side: sp.Expr) -> set[sp.Symbol]:
    """Return the letters that only integers make sense for: in n!, in a floor, in (-1)^n."""
    found: set[sp.Symbol] = set()
    for part in side.atoms(*_OF_INTEGERS, *_ROUNDINGS):
        found |= part.free_symbols
    for part in side.atoms(sp.Pow):
        if part.base.is_negative:
            found |= part.exp.free_symbols
    return found


def _whole_points(
    symbols: list[sp.Symbol], whole: set[sp.Symbol], is_rounded: bool
) -> list[dict[sp.Symbol, sp.Expr]]:
    """Return points at integers: all small ones and some large ones of one letter, or a spread.

    Letters outside of the functions of integers take rational values; a letter such as x in a
    floor takes both, since its answer is about real numbers.
    """
    values = [*_SMALL, *(_LARGE if is_rounded else _LARGE[:3])]
    points: list[dict[sp.Symbol, sp.Expr]] = []
    for number in range(len(values) if len(symbols) == 1 else _NUM_INTEGERS):
        point: dict[sp.Symbol, sp.Expr] = {}
        for index, symbol in enumerate(symbols):
            place = number if index == 0 else number * 5 // (index + 1) + 3 * index
            is_whole = symbol in whole
            if is_rounded and number % 2 and symbol.name[0] in _REALS:
                is_whole = False
            point[symbol] = (
                sp.Integer(values[place % len(values)]) if is_whole else _fraction(number, index)
            )
        points.append(point)
    return points


def _fraction(number: int, index: int) -> sp.Rational:
    return sp.Rational(6661 + 3571 * number + 5003 * index, _PRIME)


def _value(expression: sp.Expr, point: dict[sp.Symbol, sp.Rational]) -> sp.Expr | None:
    """Return the value at a point to 60 digits, or None where it has none."""
    if all(number.is_Integer for number in point.values()):
        expression, point = expression.subs(point), {}
    value = expression.evalf(_PROBE_DIGITS, subs=point)
    if value.has(sp.zoo, sp.nan, sp.oo) or not _is_complex(value):
        return None
    return value


def _is_complex(value: sp.Expr) -> bool:
    return all(part.is_Float or part.is_Rational for part in value.as_real_imag())


def _close(left: sp.Expr, right: sp.Expr) -> bool:
    """Compare to 40 digits of the larger one; both tiny against 1 is no evidence of equality."""
    scale = max(abs(left), abs(right))
    if scale == 0:
        return True
    return bool(abs(left - right) <= scale * sp.Float(10, 30) ** -40) or bool(
        scale < sp.Float(10, 30) ** -50
    )
