"""A small, strict LaTeX expression parser that builds exact sympy expressions.

It knows what answers are written in: arithmetic, powers, roots, constants, named functions,
variables with subscripts. Decimals become rationals, so nothing is ever rounded; `i` is the
imaginary unit and `e` is Euler's number. Anything else raises `UnreadableError`. Text is never
evaluated as code, and numbers too big to write out are refused before they are computed.
"""

from __future__ import annotations

import sympy as sp

from r1pipe.verify.reading import bounded
from r1pipe.verify.reading.functions import (
    CALLABLE,
    INVERSES,
    ONE_ARGUMENT,
    SEVERAL_ARGUMENTS,
)
from r1pipe.verify.reading.notation import OPERATORS, Notation
from r1pipe.verify.reading.tokens import (
    CLOSERS,
    GREEK,
    PLAIN_WORDS,
    PRODUCT,
    QUOTIENT,
    RELATIONS,
    STOP,
    STYLES,
    is_digits,
    number,
    tokens,
)
from r1pipe.verify.reading.units import parse_unit
from r1pipe.verify.reading.values import UnreadableError


def parse_expression(text: str) -> sp.Expr:
    """Return the sympy expression of a LaTeX or plain expression, or raise `UnreadableError`.

    >>> parse_expression(r"\\frac{1}{2}x^2")
    x**2/2
    """
    parser = _Parser(tokens(text))
    value = parser.sum()
    if not parser.at_end():
        raise UnreadableError(f"unexpected {parser.peek()!r}")
    return value


class _Parser(Notation):
    """Precedence climbing: sum < product (written or implied) < power < postfix < atom."""

    def __init__(self, tokens: list[str]) -> None:
        super().__init__(tokens)
        self.num_bars = 0

    def sum(self) -> sp.Expr:
        value = self.product()
        while True:
            if self.take("+"):
                value = value + self.product()
            elif self.take("-"):
                value = value - self.product()
            else:
                return value

    def product(self) -> sp.Expr:
        value = self.signed()
        while True:
            if self.take(r"\mod", r"\bmod"):
                value = sp.Mod(value, self.signed())
            elif self.peek() in PRODUCT:
                self.next()
                value = value * self.signed()
            elif self.peek() in QUOTIENT:
                self.next()
                value = bounded.divide(value, self.signed())
            elif self.starts_atom():
                if is_digits(self.peek()) and not self.may_follow():
                    raise UnreadableError("a number after another, or after a letter")
                value = self.implied(value)
            else:
                return value

    def may_follow(self) -> bool:
        """Return whether the number ahead is a factor: n2^n and 2^6 3^5 are products, x2 is not."""
        before, after = self.peek(-1), self.peek(1)
        if is_digits(before):
            return self.peek(-2) == "^" and after in ("^", "")
        return not before.isalpha() or after == "^" or (after.isalpha() and after.isascii())

    def implied(self, value: sp.Expr) -> sp.Expr:
        """Multiply by the factor beside it; `3\\frac12` is a mixed number."""
        is_mixed = is_digits(self.peek(-1)) and self.peek() == r"\frac" and value.is_Rational
        is_braced = self.peek() == "{" and value.is_number and self.peek(3) != "^"
        factor = self.power()
        if is_braced and factor.is_number:
            raise UnreadableError("two numbers side by side")
        if is_mixed and isinstance(factor, sp.Rational) and 0 < factor < 1:
            return value + factor if value >= 0 else value - factor
        return value * factor

    def signed(self) -> sp.Expr:
        sign = 1
        while self.peek() in ("+", "-"):
            sign = -sign if self.next() == "-" else sign
        return sign * self.power()

    def power(self) -> sp.Expr:
        base = self.postfix()
        if self.take("^", "**"):
            if self.take(r"\circ"):
                return base * sp.pi / 180
            if self.peek() == "{" and self.peek(1) == r"\circ" and self.peek(2) == "}":
                self.position += 3
                return base * sp.pi / 180
            if self.take(r"\prime"):
                raise UnreadableError("a derivative")
            return bounded.power(base, self.exponent())
        return base

    def exponent(self) -> sp.Expr:
        """Parse the exponent after `^`: a group or a signed power; x^12 means twelve."""
        if self.peek() in ("+", "-"):
            return self.signed()
        return self.power()

    def postfix(self) -> sp.Expr:
        value = self.atom()
        while self.take("!"):
            if self.take("!"):
                if self.peek() == "!":
                    raise UnreadableError("a triple factorial")
                value = bounded.double_factorial(value)
            else:
                value = bounded.factorial(value)
        if self.take("%", r"\%"):
            value = value / 100
        return value

    def starts_atom(self) -> bool:
        token = self.peek()
        if token == "|":
            return self.num_bars == 0
        if not token or token in STOP:
            return False
        if token[0].isalnum() or token in ("(", "[", "{"):
            return True
        return token.startswith("\\") and token not in RELATIONS and len(token) > 2

    def atom(self) -> sp.Expr:
        token = self.next()
        if is_digits(token):
            return number(token)
        if token == "^" or (token == "{" and self.take("}")):
            self.position -= token == "^"
            return self.atom_after_index()
        if token in CLOSERS:
            value = self.sum()
            self.expect(CLOSERS[token])
            return value
        if token in ("|", r"\lvert"):
            return self.absolute()
        if len(token) == 1 and token.isalpha() and token.isascii():
            return self.variable(token)
        if token.startswith("\\") and len(token) > 2:
            return self.command(token[1:])
        raise UnreadableError(f"unexpected {token!r}")

    def absolute(self) -> sp.Expr:
        self.num_bars += 1
        value = self.sum()
        self.num_bars -= 1
        if not self.take("|", r"\rvert"):
            raise UnreadableError("a bar is not closed")
        return sp.Abs(value)

    def variable(self, letter: str) -> sp.Expr:
        if self.peek() == "(" and letter not in "fgh":
            try:
                value = self.counted(letter)
            except UnreadableError:
                value = None
            if value is not None:
                return value
        if letter in "CAP" and self.peek() == "_" and (value := self.indexed(letter)) is not None:
            return value
        label = self.subscript()
        while self.take("'"):
            label += "'"
        if not label and letter == "e":
            return sp.E
        if not label and letter == "i" and letter not in self.bound:
            return sp.I
        if letter in "fgh" and self.peek() == "(":
            self.next()
            return sp.Function(letter + label)(*self.arguments(")"))
        return sp.Symbol(letter + label)

    def subscript(self) -> str:
        """Return the label after `_`, or ""."""
        if not self.take("_"):
            return ""
        if not self.take("{"):
            return "_" + self.next()
        parts = []
        while not self.take("}"):
            token = self.next()
            if token in ("{", "^"):
                raise UnreadableError("an expression in a subscript")
            parts.append(token)
        return "_" + "".join(parts)

    def command(self, name: str) -> sp.Expr:
        if name == "frac":
            top = self.argument()
            if top == sp.Symbol("d"):
                raise UnreadableError("a derivative")
            return bounded.divide(top, self.argument())
        if name == "sqrt":
            return self.root()
        if name in ("binom", "tbinom", "dbinom"):
            top = self.argument()
            return bounded.binomial(top, self.argument())
        if name in SEVERAL_ARGUMENTS and self.peek() in ("(", r"\{"):
            return SEVERAL_ARGUMENTS[name](*self.arguments(CLOSERS[self.next()]))
        if name == "Gamma" and self.peek() != "(":
            return sp.Symbol(name + self.subscript())
        if name in ONE_ARGUMENT:
            return self.function(name)
        if name in OPERATORS:
            return self.operator(name)
        return self.symbol(name)

    def symbol(self, name: str) -> sp.Expr:
        """Read a constant, a Greek letter, letters in a style, or what stands between floors."""
        if name in PLAIN_WORDS:
            return PLAIN_WORDS[name]
        if name in GREEK:
            return sp.Symbol(name + self.subscript())
        if name in ("lfloor", "lceil"):
            value = self.sum()
            self.expect("\\r" + name[1:])
            return sp.floor(value) if name == "lfloor" else sp.ceiling(value)
        if name in {*STYLES, "operatorname"} and self.peek(1)[1:] in CALLABLE:
            self.expect("{")
            called = self.next()
            self.expect("}")
            return self.command(called[1:])
        if name in STYLES and self.peek() == "{":
            return self.styled(name)
        raise UnreadableError(f"unknown command {name!r}")

    def styled(self, name: str) -> sp.Expr:
        """Read `\\mathbf{x}`: one letter set in a style is a variable of its own."""
        self.expect("{")
        letter = self.next()
        if not self.take("}"):
            return self.product_of(letter, name)
        if name in ("mathrm", "text") and letter in ("e", "i"):
            return sp.E if letter == "e" else sp.I
        letter = letter[1:] if letter[1:] in GREEK else letter
        if not letter.isalpha() or (len(letter) > 1 and letter not in GREEK):
            raise UnreadableError("text")
        if letter in "CAP" and self.peek() == "_" and (value := self.indexed(letter)) is not None:
            return value
        style = "" if name in ("mathbf", "mathit", "mathrm", "text") else name
        return sp.Symbol(style + letter + self.subscript())

    def product_of(self, letter: str, style: str) -> sp.Expr:
        """Read `\\mathrm{gb}`, which some keys print for the product of two or three letters."""
        letters = [letter]
        while not self.take("}"):
            letters.append(self.next())
        is_product = all(len(one) == 1 and one.isalpha() for one in letters) and len(letters) < 4
        if style != "mathrm" or not is_product or parse_unit("".join(letters)) is not None:
            raise UnreadableError("text")
        return sp.Mul(*(sp.Symbol(one) for one in letters))

    def root(self) -> sp.Expr:
        if self.take("["):
            index = self.sum()
            self.expect("]")
        else:
            index = sp.Integer(2)
        value = self.argument()
        if isinstance(index, sp.Integer) and index % 2 and value.is_number and value.is_negative:
            return -bounded.power(-value, 1 / index)  # the real cube root of -8 is -2
        if index == 0:
            raise UnreadableError("a root of index zero")
        return bounded.power(value, 1 / index)

    def argument(self) -> sp.Expr:
        """Parse `{...}`, or one digit, letter or command."""
        if self.take("{"):
            value = self.sum()
            self.expect("}")
            return value
        token = self.peek()
        if is_digits(token) and len(token) > 1 and "." not in token and self.peek(-1) != ")":
            self.tokens[self.position : self.position + 1] = list(token)  # \frac12 is 1/2
        return self.atom()

    def function(self, name: str) -> sp.Expr:
        base: sp.Expr | None = None
        if name == "log" and self.take("_"):
            base = self.argument()
        if name == "log" and self.peek() == "(" and self.has_base():
            self.next()
            value, base = self.arguments(")")
            return sp.log(value, base)
        power: sp.Expr | None = None
        if self.take("^"):
            power = self.argument() if self.peek() == "{" else self.signed_atom()
        argument = self.function_argument()
        if power == -1 and name in INVERSES:
            return INVERSES[name](argument)
        value = ONE_ARGUMENT[name](argument) if base is None else sp.log(argument, base)
        return value if power is None else bounded.power(value, power)

    def signed_atom(self) -> sp.Expr:
        return -self.atom() if self.take("-") else self.atom()

    def function_argument(self) -> sp.Expr:
        """Parse `(...)`, `{...}`, or a product without sums: `\\sin 2x`."""
        if self.peek() in ("(", "[", "{", "|"):
            return self.power()
        value = self.signed()
        if value.is_Rational and self.peek() == r"\cdot" and self.peek(1)[:1].isalpha():
            self.next()  # \sin 2 \cdot x
        while self.starts_atom() and self.peek()[1:] not in ONE_ARGUMENT and self.peek() != "(":
            value = value * self.power()
        return value
