"""A small, strict LaTeX expression parser that builds exact sympy expressions.

It knows what answers are written in: arithmetic, powers, roots, constants, named functions,
variables with subscripts. Decimals become rationals, so nothing is ever rounded; `i` is the
imaginary unit and `e` is Euler's number. Anything else raises `UnreadableError`. Text is never
evaluated as code, and numbers too big to write out are refused before they are computed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

import sympy as sp

from r1pipe.verify.answers import bounded
from r1pipe.verify.answers.values import UnreadableError

MAX_TOKENS = 400

_TOKEN = re.compile(
    r"\s*(?:(?P<number>[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,3}(?![0-9a-zA-Z]))?|\.[0-9]+)"
    r"|(?P<command>\\[a-zA-Z]+|\\[{}%|])|(?P<word>[a-zA-Z]+)|(?P<mark>\*\*|.))",
    re.DOTALL | re.ASCII,
)
_GREEK = frozenset(
    {"alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "iota"}
    | {"vartheta", "kappa", "lambda", "mu", "nu", "xi", "rho", "sigma", "tau", "upsilon", "phi"}
    | {"varphi", "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi", "Sigma", "Phi"}
    | {"Psi", "Omega", "ell", "hbar", "star"}
)
_FUNCTIONS: dict[str, Callable[[sp.Expr], sp.Expr]] = {
    "sin": sp.sin,
    "cos": sp.cos,
    "tan": sp.tan,
    "cot": sp.cot,
    "sec": sp.sec,
    "csc": sp.csc,
    "arcsin": sp.asin,
    "arccos": sp.acos,
    "arctan": sp.atan,
    "arccot": sp.acot,
    "sinh": sp.sinh,
    "cosh": sp.cosh,
    "tanh": sp.tanh,
    "ln": sp.log,
    "log": sp.log,
    "lg": lambda x: sp.log(x, 10),
    "exp": sp.exp,
    "sgn": sp.sign,
    "Re": sp.re,
    "Im": sp.im,
    "tg": sp.tan,
    "arctg": sp.atan,
}
_INVERSES = {"sin": sp.asin, "cos": sp.acos, "tan": sp.atan}
_PLAIN_WORDS = {"pi": sp.pi, "inf": sp.oo, "infinity": sp.oo, "infty": sp.oo}
_PRODUCT = {"*", r"\cdot", r"\times", r"\ast"}
_QUOTIENT = {"/", r"\div"}
_CLOSERS = {"(": ")", "[": "]", "{": "}", r"\{": r"\}"}
_STOP = frozenset({")", "]", "}", r"\}", "|", r"\rfloor", r"\rceil", r"\rvert", r"\right", ","})
_STYLES = frozenset({"mathbf", "mathit", "mathcal", "mathrm", "text", "vec", "hat", "bar", "tilde"})
_RELATIONS = frozenset(["=", "<", ">", r"\le", r"\ge", r"\ne", r"\in", r"\pm", r"\mp", "&", ";"])


def parse_expression(text: str) -> sp.Expr:
    """Return the sympy expression of a LaTeX or plain expression, or raise `UnreadableError`.

    >>> parse_expression(r"\\frac{1}{2}x^2")
    x**2/2
    """
    parser = _Parser(_tokens(text))
    value = parser.sum()
    if not parser.at_end():
        raise UnreadableError(f"unexpected {parser.peek()!r}")
    return value


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    for match in _TOKEN.finditer(text.strip()):
        word = match.group("word")
        if word is None:
            tokens.append(match.group().strip())
        elif word in _PLAIN_WORDS or word in _FUNCTIONS or word == "sqrt":
            tokens.append("\\" + word)
        else:
            tokens += word
        if len(tokens) > MAX_TOKENS:
            raise UnreadableError("too many tokens")
    return [token for token in tokens if token]


class _Parser:
    """Precedence climbing: sum < product (written or implied) < power < postfix < atom."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.position = 0
        self.num_bars = 0

    def at_end(self) -> bool:
        return self.position >= len(self.tokens)

    def peek(self, ahead: int = 0) -> str:
        index = self.position + ahead
        return self.tokens[index] if index < len(self.tokens) else ""

    def next(self) -> str:
        token = self.peek()
        if not token:
            raise UnreadableError("the expression ends too early")
        self.position += 1
        return token

    def take(self, *tokens: str) -> bool:
        if self.peek() in tokens and not self.at_end():
            self.position += 1
            return True
        return False

    def expect(self, token: str) -> None:
        if not self.take(token):
            raise UnreadableError(f"expected {token!r}, not {self.peek()!r}")

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
            if self.peek() in _PRODUCT:
                self.next()
                value = value * self.signed()
            elif self.peek() in _QUOTIENT:
                self.next()
                value = bounded.divide(value, self.signed())
            elif self.starts_atom():
                before = self.peek(-1)
                if _is_digits(self.peek()) and (_is_digits(before) or before.isalpha()):
                    raise UnreadableError("a number after another, or after a letter")
                value = self.implied(value)
            else:
                return value

    def implied(self, value: sp.Expr) -> sp.Expr:
        """Multiply by the factor beside it; `3\\frac12` is a mixed number."""
        is_mixed = _is_digits(self.peek(-1)) and self.peek() == r"\frac" and value.is_Rational
        is_braced = self.peek() == "{" and value.is_number
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
            if self.peek() == "!":
                raise UnreadableError("a double factorial")
            value = bounded.factorial(value)
        if self.take("%", r"\%"):
            value = value / 100
        return value

    def starts_atom(self) -> bool:
        token = self.peek()
        if token == "|":
            return self.num_bars == 0
        if not token or token in _STOP:
            return False
        if token[0].isalnum() or token in ("(", "[", "{"):
            return True
        return token.startswith("\\") and token not in _RELATIONS and len(token) > 2

    def atom(self) -> sp.Expr:
        token = self.next()
        if _is_digits(token):
            return _number(token)
        if token in _CLOSERS:
            value = self.sum()
            self.expect(_CLOSERS[token])
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
        label = self.subscript()
        while self.take("'"):
            label += "'"
        if not label and letter == "e":
            return sp.E
        if not label and letter == "i":
            return sp.I
        if letter in "fgh" and self.peek() == "(":
            self.next()
            arguments = [self.sum()]
            while self.take(","):
                arguments.append(self.sum())
            self.expect(")")
            return sp.Function(letter + label)(*arguments)
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
        if name in _FUNCTIONS:
            return self.function(name)
        if name in _PLAIN_WORDS:
            return _PLAIN_WORDS[name]
        if name in _GREEK:
            return sp.Symbol(name + self.subscript())
        if name in ("lfloor", "lceil"):
            value = self.sum()
            self.expect("\\r" + name[1:])
            return sp.floor(value) if name == "lfloor" else sp.ceiling(value)
        if name in _STYLES and self.peek() == "{":
            return self.styled(name)
        raise UnreadableError(f"unknown command {name!r}")

    def styled(self, name: str) -> sp.Expr:
        """Read `\\mathbf{x}`: one letter set in a style is a variable of its own."""
        self.expect("{")
        letter = self.next()
        self.expect("}")
        if name in ("mathrm", "text") and letter in ("e", "i"):
            return sp.E if letter == "e" else sp.I
        if len(letter) != 1 or not letter.isalpha():
            raise UnreadableError("text")
        style = "" if name in ("mathbf", "mathit", "mathrm", "text") else name
        return sp.Symbol(style + letter + self.subscript())

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
        if _is_digits(token) and len(token) > 1 and "." not in token and self.peek(-1) != ")":
            self.tokens[self.position : self.position + 1] = list(token)  # \frac12 is 1/2
        return self.atom()

    def function(self, name: str) -> sp.Expr:
        base: sp.Expr | None = None
        if name == "log" and self.take("_"):
            base = self.argument()
        power: sp.Expr | None = None
        if self.take("^"):
            power = self.argument() if self.peek() == "{" else self.signed_atom()
        argument = self.function_argument()
        if power == -1 and name in _INVERSES:
            return _INVERSES[name](argument)
        value = _FUNCTIONS[name](argument) if base is None else sp.log(argument, base)
        return value if power is None else bounded.power(value, power)

    def signed_atom(self) -> sp.Expr:
        return -self.atom() if self.take("-") else self.atom()

    def function_argument(self) -> sp.Expr:
        """Parse `(...)`, `{...}`, or a product without sums: `\\sin 2x`."""
        if self.peek() in ("(", "[", "{", "|"):
            return self.power()
        value = self.signed()
        while self.starts_atom() and self.peek()[1:] not in _FUNCTIONS and self.peek() != "(":
            value = value * self.power()
        return value


def _is_digits(token: str) -> bool:
    return "0" <= token[:1] <= "9" or (token[:1] == "." and len(token) > 1)


def _number(token: str) -> sp.Expr:
    value = Fraction(token)
    return sp.Rational(value.numerator, value.denominator)
