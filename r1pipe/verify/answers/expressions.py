"""Are two exact sympy expressions equal? By structure, then by value at exact points.

Two expressions without variables are compared to hundreds of significant digits, so that neither
tiny nor huge numbers are taken for equal. With variables, they are compared at rational points
where both are real (or anywhere, if they are complex); agreement at all of them to 60 digits is
taken as identity.
"""

from __future__ import annotations

import sympy as sp
from sympy.core.evalf import PrecisionExhausted

MAX_SYMBOLS = 8
_DIGITS, _MAX_DIGITS, _PROBE_DIGITS = 5, 400, 60
_MIN_PROBES, _NUM_PROBES = 3, 10
_PRIME = 9973  # a large prime below the line: no point is an integer, where poles like to sit


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
    if not (left.has(sp.core.function.AppliedUndef) or right.has(sp.core.function.AppliedUndef)):
        is_complex = left.has(sp.I) or right.has(sp.I)
        num_agreed = 0
        for point in _points(symbols, left, right):
            values = [_value(side, point) for side in (left, right)]
            if any(value is None or not (is_complex or value.is_real) for value in values):
                continue
            if not _close(*values):
                return False
            num_agreed += 1
        if num_agreed >= _MIN_PROBES:
            return True
    return bool(sp.simplify(left - right) == 0)


def _points(
    symbols: list[sp.Symbol], left: sp.Expr, right: sp.Expr
) -> list[dict[sp.Symbol, sp.Rational]]:
    """Return rational points, positive ones first; whole numbers where only they make sense."""
    only_whole = any(
        side.has(sp.factorial, sp.binomial)
        or any(power.base.is_negative and power.exp.free_symbols for power in side.atoms(sp.Pow))
        for side in (left, right)
    )
    points = []
    for shift in range(_NUM_PROBES):
        point = {}
        for index, symbol in enumerate(symbols):
            sign = -1 if shift >= 4 and (shift + index) % 2 else 1
            value = sp.Rational(6661 + 3571 * shift + 5003 * index, _PRIME)
            point[symbol] = sp.Integer(3 + shift + 2 * index) if only_whole else sign * value
        points.append(point)
    return points


def _value(expression: sp.Expr, point: dict[sp.Symbol, sp.Rational]) -> sp.Expr | None:
    """Return the value at a point to 60 digits, or None where it has none."""
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
