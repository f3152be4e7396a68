"""The functions that answers name, on exact sympy values, and how each is called.

Sizes are checked before sympy computes; what is too big raises `TooBigError`.
"""

from __future__ import annotations

from collections.abc import Callable

import sympy as sp

from r1pipe.verify.reading import bounded
from r1pipe.verify.reading.values import UnreadableError

_SAME_NAME = "sin cos tan cot sec csc asin acos atan acot sinh cosh tanh log exp floor Abs"
ONE_ARGUMENT: dict[str, Callable[[sp.Expr], sp.Expr]] = {
    **{name: getattr(sp, name) for name in _SAME_NAME.split()},
    **{f"arc{name}": getattr(sp, f"a{name}") for name in ("sin", "cos", "tan", "cot")},
    "ln": sp.log,
    "lg": lambda x: sp.log(x, 10),
    "sgn": sp.sign,
    "Re": sp.re,
    "Im": sp.im,
    "tg": sp.tan,
    "arctg": sp.atan,
    "abs": sp.Abs,
    "ceil": sp.ceiling,
    "cbrt": lambda x: bounded.power(x, sp.Rational(1, 3)),
    "factorial": lambda x: bounded.factorial(x),
    "Gamma": lambda x: bounded.factorial(x - 1),
}
"""By name without the backslash. A word of ASCII letters is one of these before it is a product."""
SEVERAL_ARGUMENTS: dict[str, Callable[..., sp.Expr]] = {
    "max": sp.Max,
    "min": sp.Min,
    "gcd": lambda *args: _whole(sp.gcd, args),
    "lcm": lambda *args: _whole(sp.lcm, args),
    "Fraction": bounded.divide,
    "Rational": bounded.divide,
}
CALLABLE = frozenset({*ONE_ARGUMENT, *SEVERAL_ARGUMENTS})
INVERSES = {"sin": sp.asin, "cos": sp.acos, "tan": sp.atan}


class Divisor(sp.Function):  # type: ignore[misc]
    """A greatest common divisor or least common multiple of letters: known at integers only."""

    nargs = None

    @classmethod
    def eval(cls, kind: sp.Integer, *args: sp.Expr) -> sp.Expr | None:
        """Compute where all arguments are integers; sort them, since their order does not count."""
        if all(arg.is_Integer for arg in args):
            return (sp.igcd if kind == 0 else sp.ilcm)(*args)
        ordered = sorted(args, key=sp.default_sort_key)
        return None if list(args) == ordered else cls(kind, *ordered)


def _whole(function: Callable[..., sp.Expr], args: tuple[sp.Expr, ...]) -> sp.Expr:
    if len(args) < 2:
        raise UnreadableError("a divisor of one number")
    return Divisor(sp.Integer(0 if function is sp.gcd else 1), *args)


def choose(top: sp.Expr, bottom: sp.Expr) -> sp.Expr:
    """Return n over k."""
    return bounded.binomial(top, bottom)


def arrange(top: sp.Expr, bottom: sp.Expr) -> sp.Expr:
    """Return the number of ordered choices of k out of n."""
    return bounded.divide(bounded.factorial(top), bounded.factorial(top - bottom))
