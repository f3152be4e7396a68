"""Notation around letters: C_n^k and its like, integrals, sums, products and limits.

What can be worked out is; what cannot keeps a bound letter of its own, so that the letter's name
does not count.
"""

from __future__ import annotations

from collections.abc import Callable

import sympy as sp

from r1pipe.verify.reading.functions import arrange, choose
from r1pipe.verify.reading.tokens import CLOSERS, Cursor
from r1pipe.verify.reading.values import TooBigError, UnreadableError

MAX_TERMS, MAX_STEEP_TERMS = 10_000, 200
OPERATORS = frozenset({"int", "sum", "prod", "lim"})
_BOUND = sp.Symbol("bound")


def _is_steep(body: sp.Expr) -> bool:
    """Return whether terms grow as k! or k^k do: the last of many has too many digits."""
    return any(
        _BOUND in part.free_symbols for part in body.atoms(sp.factorial, sp.binomial)
    ) or any(
        _BOUND in power.base.free_symbols & power.exp.free_symbols for power in body.atoms(sp.Pow)
    )


class Notation(Cursor):
    """What a parser of expressions reads besides arithmetic; the parser has the rest."""

    sum: Callable[[], sp.Expr]
    product: Callable[[], sp.Expr]
    argument: Callable[[], sp.Expr]
    """Reads a group in braces, or one token."""

    def __init__(self, tokens: list[str]) -> None:
        super().__init__(tokens)
        self.bound: set[str] = set()

    def operator(self, name: str) -> sp.Expr:
        """Read an integral, sum, product or limit after its command."""
        self.take(r"\limits")
        if name == "int":
            return self.integral()
        self.expect("_")
        self.expect("{")
        letter = self.letter()
        self.expect(r"\to" if name == "lim" else "=")
        start = self.sum()
        self.expect("}")
        self.bound.add(letter.name)
        if name == "lim":
            return sp.limit(self.product(), letter, start)
        self.expect("^")
        end = self.argument()
        body = self.product().subs(letter, _BOUND)
        self.bound.discard(letter.name)
        kind = sp.Sum if name == "sum" else sp.Product
        total = kind(body, (_BOUND, start, end))
        max_terms = MAX_STEEP_TERMS if _is_steep(body) else MAX_TERMS
        if start.is_Integer and end.is_Integer and end - start > max_terms:
            raise TooBigError("more terms than can be added")
        is_series = end == sp.oo and body.free_symbols - {_BOUND}
        return total if is_series else total.doit()

    def integral(self) -> sp.Expr:
        """Read the bounds, the integrand up to its `dx`, and integrate."""
        low = self.argument() if self.take("_") else None
        high = self.argument() if self.take("^") else None
        end = self.differential()
        rest, self.tokens = self.tokens[end:], self.tokens[:end]
        body = sp.Integer(1) if self.at_end() else self.sum()
        if not self.at_end():
            raise UnreadableError("an integrand that ends too early")
        self.tokens = self.tokens + rest
        self.expect("d")
        letter = self.letter()
        if low is None or high is None:
            raise UnreadableError("an integral without bounds is no value")
        towers = (power for power in body.atoms(sp.Pow) if letter in power.base.free_symbols)
        if any(letter in power.exp.free_symbols for power in towers):
            raise UnreadableError("an integral that is not worked out")
        value = sp.Integral(body.subs(letter, _BOUND), (_BOUND, low, high)).doit()
        if value.has(sp.Integral) and not body.has(sp.core.function.AppliedUndef):
            raise UnreadableError("an integral that cannot be worked out")
        return value

    def differential(self) -> int:
        """Return where the `d` of `dx` stands, outside of every bracket."""
        depth = 0
        for place in range(self.position, len(self.tokens) - 1):
            token, after = self.tokens[place], self.tokens[place + 1]
            depth += (token in CLOSERS) - (token in CLOSERS.values())
            if depth == 0 and token == "d" and len(after) == 1 and after.isalpha():
                return place
        raise UnreadableError("an integral without its differential")

    def letter(self) -> sp.Symbol:
        """Take one letter."""
        token = self.next()
        if len(token) != 1 or not token.isalpha():
            raise UnreadableError("a letter was expected")
        return sp.Symbol(token)

    def atom_after_index(self) -> sp.Expr:
        """Read `{}_{10}C_3` and `{}^{10}C_3`, the indices before the letter."""
        if not self.take("_", "^"):
            raise UnreadableError("an empty group")
        top = self.argument()
        letter = self.next()
        self.expect("_")
        bottom = self.argument()
        if letter not in ("C", "P"):
            raise UnreadableError("an index before its letter")
        return choose(top, bottom) if letter == "C" else arrange(top, bottom)

    def called(self, letter: str) -> sp.Expr | None:
        """Read what a letter is called with, or go back where it is a letter only."""
        start, value, is_call = self.position, None, self.peek() == "("
        try:
            if is_call and letter not in "fgh":
                value = self.counted(letter)
            elif self.peek() == "_" and letter in "CAP":
                value = self.indexed(letter)
        except UnreadableError as error:
            if is_call and isinstance(error, TooBigError):
                raise  # P_0^{2/5} is a letter with an index, P(10^9,3) is none
        if value is None:
            self.position = start
        return value

    def counted(self, letter: str) -> sp.Expr | None:
        """Read `C(10,3)` and `P(5,2)`; a number of one argument, as in `I(0)`, is a name."""
        self.next()
        arguments = self.arguments(")")
        if len(arguments) == 2 and letter in ("C", "P", "A"):
            return (choose if letter == "C" else arrange)(*arguments)
        is_value = len(arguments) == 1 and arguments[0].is_Integer
        if is_value and (letter.isupper() or arguments[0] == 0):
            return sp.Symbol(f"{letter}({arguments[0]})")
        return None

    def indexed(self, letter: str) -> sp.Expr | None:
        """Read `C_{10}^3` and `A_5^2`, as they are written where n over k is not."""
        self.next()
        top = self.argument()
        bottom = self.argument() if self.take("^") else None
        if bottom is None or (top.is_Integer and bottom.is_Integer and bottom > top):
            return None
        return choose(top, bottom) if letter == "C" else arrange(top, bottom)

    def arguments(self, closer: str) -> list[sp.Expr]:
        found = [self.sum()]
        while self.take(","):
            found.append(self.sum())
        self.expect(closer)
        return found

    def has_base(self) -> bool:
        """Return whether `log(` goes on with an argument and a base."""
        depth = 0
        for token in self.tokens[self.position :]:
            depth += (token in CLOSERS) - (token in CLOSERS.values())
            if depth == 0 or (depth == 1 and token == ","):
                return depth == 1
        return False
