"""A second reading of answers: LaTeX of constants and algebra as sympy expressions.

It shares no code with `r1pipe.verify`. The pairs of `answer_pairs.py` are confirmed by it: a
respelling must have the gold answer's value at random points, and a perturbation must not. What it
cannot read in full is None, and makes no pairs whose label would hang on its value.
"""

from __future__ import annotations

import re
from functools import lru_cache

import sympy as sp

_TOKEN = re.compile(
    r"\s*(?:(\d+(?:\.\d+)?|\.\d+)|(\\[a-zA-Z]+)|([a-zA-Z])|(.))", re.DOTALL | re.ASCII
)
_FUNCTIONS = {
    r"\sin": sp.sin,
    r"\cos": sp.cos,
    r"\tan": sp.tan,
    r"\ln": sp.log,
    r"\arctan": sp.atan,
    r"\arcsin": sp.asin,
    r"\exp": sp.exp,
}
_MIXED = re.compile(r"\d\s*\\[dt]?frac\s*(?:\{\s*\d+\s*\}|\d)")
_SPACES = re.compile(r"\\(?:left|right|displaystyle|,|;|!|:|quad|qquad|big|Big)(?![a-zA-Z])|~")
_POINTS = (sp.Rational(31, 17), sp.Rational(57, 23), sp.Rational(19, 29), sp.Rational(83, 37))
DIGITS = 30


class _UnknownError(ValueError):
    """The text is beyond this reader."""


@lru_cache(maxsize=65536)
def value_of(text: str, with_i: bool = False) -> sp.Expr | None:
    """Return what a text writes, or None; `e` is Euler's number, and `i` a letter unless told."""
    if len(text) > 400 or _MIXED.search(text):
        return None  # 6\\frac23 is a sum to some and a product to others
    spaced = _SPACES.sub(" ", text).replace(r"\{", "(").replace(r"\}", ")")
    tokens = [match.group().strip() for match in _TOKEN.finditer(spaced.strip())]
    try:
        reader = _Reader([token for token in tokens if token], with_i)
        found = reader.sum()
        return found if reader.is_done() and not found.has(sp.zoo, sp.nan) else None
    except (_UnknownError, ZeroDivisionError, ValueError, OverflowError, TypeError):
        return None


def same_value(left: sp.Expr, right: sp.Expr) -> bool:
    """Return whether two expressions agree at two points, to 30 digits."""
    letters = sorted(left.free_symbols | right.free_symbols, key=str)
    for shift in (0, 1):
        points = {
            letter: _POINTS[(shift + index) % 4] + index // 4
            for index, letter in enumerate(letters)
        }
        gap = (left - right).subs(points).evalf(DIGITS, maxn=200)
        size = abs(left.subs(points).evalf(15)) + abs(right.subs(points).evalf(15))
        if not gap.is_number or not (
            abs(gap) <= sp.Float(10) ** -20 * (size + sp.Float(10) ** -30)
        ):
            return False
    return True


class _Reader:
    """Recursive descent: sums of products of powers of atoms; juxtaposition multiplies."""

    def __init__(self, tokens: list[str], with_i: bool) -> None:
        self.tokens, self.position, self.with_i = tokens, 0, with_i

    def is_done(self) -> bool:
        return self.position == len(self.tokens)

    def peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.position += 1
        return token

    def expect(self, token: str) -> None:
        if self.take() != token:
            raise _UnknownError(token)

    def sum(self) -> sp.Expr:
        total = self.product()
        while self.peek() in ("+", "-"):
            total = total + self.product() if self.take() == "+" else total - self.product()
        return total

    def product(self) -> sp.Expr:
        if self.peek() in ("-", "+"):
            return -self.product() if self.take() == "-" else self.product()
        found = self.power()
        while True:
            token = self.peek()
            if token in (r"\cdot", r"\times", "*"):
                self.take()
                found = found * self.signed()
            elif token in ("/", r"\div"):
                self.take()
                found = found / self.signed()
            elif token and (token[0].isalnum() or token in ("(", "[") or self._starts(token)):
                found = found * self.power()
            else:
                return found

    def signed(self) -> sp.Expr:
        return -self.signed() if self.peek() == "-" and self.take() else self.power()

    def _starts(self, token: str) -> bool:
        known = (r"\frac", r"\dfrac", r"\tfrac", r"\sqrt", r"\pi", r"\binom", r"\log", "{")
        return token in known or token in _FUNCTIONS

    def power(self) -> sp.Expr:
        base = self.atom()
        while self.peek() == "!":
            self.take()
            if not (base.is_Integer and 0 <= base <= 200):
                raise _UnknownError("!")
            base = sp.factorial(base)
        if self.peek() != "^":
            return base
        self.take()
        exponent = self.group()
        if exponent.is_number and base.is_number and abs(exponent.evalf(5)) > 400:
            raise _UnknownError("too big")
        return base**exponent

    def group(self) -> sp.Expr:
        """Read what a command or a caret takes: braces, or one digit, letter or command."""
        if self.peek() == "{":
            self.take()
            found = self.sum()
            self.expect("}")
            return found
        token = self.peek()
        if token.isdigit() and len(token) > 1:  # \frac12: one digit each
            self.tokens[self.position : self.position + 1] = list(token)
        return self.atom()

    def atom(self) -> sp.Expr:
        token = self.take()
        if re.fullmatch(r"[0-9.]+", token):
            return sp.Rational(token)
        if token in ("(", "[", "{"):
            found = self.sum()
            self.expect({"(": ")", "[": "]", "{": "}"}[token])
            return found
        if token in (r"\frac", r"\dfrac", r"\tfrac"):
            top, bottom = self.group(), self.group()
            if bottom == 0:
                raise _UnknownError("division by zero")
            return top / bottom
        if token == r"\sqrt":
            return self._root()
        if token == r"\pi":
            return sp.pi
        if token == r"\binom":
            return self._binomial()
        if token in _FUNCTIONS or token == r"\log":
            return self._function(token)
        if re.fullmatch("[a-zA-Z]", token):
            return self._letter(token)
        raise _UnknownError(token)

    def _binomial(self) -> sp.Expr:
        top, bottom = self.group(), self.group()
        if not (top.is_Integer and bottom.is_Integer and 0 <= bottom <= top <= 300):
            raise _UnknownError("binomial")
        return sp.binomial(top, bottom)

    def _root(self) -> sp.Expr:
        index: sp.Expr = sp.Integer(2)
        if self.peek() == "[":
            self.take()
            index = self.sum()
            self.expect("]")
        return self.group() ** (1 / index)

    def _function(self, token: str) -> sp.Expr:
        base = None
        if token == r"\log":
            if self.peek() != "_":
                raise _UnknownError("a logarithm without a base")
            self.take()
            base = self.group()
        exponent = None
        if self.peek() == "^":
            self.take()
            exponent = self.group()
            if exponent == -1:
                raise _UnknownError("an inverse function")
        argument = self.power()
        while re.fullmatch(r"[0-9.]+|[a-zA-Z]|\\pi|\\frac", self.peek()):
            argument = argument * self.power()
        found = sp.log(argument, base) if base is not None else _FUNCTIONS[token](argument)
        return found**exponent if exponent is not None else found

    def _letter(self, name: str) -> sp.Expr:
        if name == "e":
            return sp.E
        if name == "i" and self.with_i:
            return sp.I
        argument = self.tokens[self.position : self.position + 3]
        if argument[:1] == ["("] and (name in "fghFGP" or argument[2:] == [")"]):
            raise _UnknownError("a function of that name")
        if self.peek() == "_":
            self.take()
            name += f"_{self.group()}"
        return sp.Symbol(name, positive=True)
