"""The tokens of an expression: numbers, commands, letters, marks; and which of them mean what."""

from __future__ import annotations

import re
from fractions import Fraction

import sympy as sp

from r1pipe.verify.reading.functions import ONE_ARGUMENT, SEVERAL_ARGUMENTS
from r1pipe.verify.reading.values import UnreadableError
from r1pipe.verify.reading.words import is_word

MAX_TOKENS = 400

_TOKEN = re.compile(
    r"\s*(?:(?P<number>[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,3}(?![0-9a-zA-Z]))?|\.[0-9]+)"
    r"|(?P<command>\\[a-zA-Z]+|\\[{}%|])|(?P<word>[a-zA-Z]+)|(?P<mark>\*\*|.))",
    re.DOTALL | re.ASCII,
)
GREEK = frozenset(
    {"alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "iota"}
    | {"vartheta", "kappa", "lambda", "mu", "nu", "xi", "rho", "sigma", "tau", "upsilon", "phi"}
    | {"varphi", "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi", "Sigma", "Phi"}
    | {"Psi", "Omega", "ell", "hbar", "star"}
)
PLAIN_WORDS = {"pi": sp.pi, "inf": sp.oo, "infinity": sp.oo, "infty": sp.oo, "oo": sp.oo}
_KNOWN = {*PLAIN_WORDS, *ONE_ARGUMENT, *SEVERAL_ARGUMENTS, "sqrt", "mod"}
_CALLED = {"sin", "cos", "tan", "ln", "log"}
_LOG_BASE = re.compile(r"(?<![\\a-zA-Z])log_?(2|10)(?=\()")
PRODUCT = {"*", r"\cdot", r"\times", r"\ast"}
QUOTIENT = {"/", r"\div"}
CLOSERS = {"(": ")", "[": "]", "{": "}", r"\{": r"\}"}
STOP = frozenset({")", "]", "}", r"\}", "|", r"\rfloor", r"\rceil", r"\rvert", r"\right", ","})
STYLES = frozenset(
    {"mathbf", "mathit", "mathcal", "mathrm", "text", "vec", "hat", "bar", "tilde", "dot", "ddot"}
)
RELATIONS = frozenset(["=", "<", ">", r"\le", r"\ge", r"\ne", r"\in", r"\pm", r"\mp", "&", ";"])


def tokens(text: str) -> list[str]:
    """Return the tokens of a text; a word is a function, a constant, or a product of letters."""
    found: list[str] = []
    text = _LOG_BASE.sub(r"\\log_{\1}", text.strip().replace("E**", "e**"))
    for match in _TOKEN.finditer(text):
        word, is_base = match.group("word"), text[match.end() : match.end() + 1] == "^"
        if word is None:
            found.append(match.group().strip())
        elif word in _KNOWN:
            found.append("\\" + word)
        elif word[:-1] in _CALLED:  # sinx
            found += ["\\" + word[:-1], word[-1]]
        elif len(word) > 3 and is_word(word[:-1] if word[-1] == "e" and is_base else word):
            raise UnreadableError("a word in an expression")
        else:
            found += word
        if len(found) > MAX_TOKENS:
            raise UnreadableError("too many tokens")
    return [token for token in found if token]


class Cursor:
    """A place in a list of tokens."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.position = 0

    def at_end(self) -> bool:
        """Return whether every token has been read."""
        return self.position >= len(self.tokens)

    def peek(self, ahead: int = 0) -> str:
        """Return the token so far ahead, or ""."""
        index = self.position + ahead
        return self.tokens[index] if index < len(self.tokens) else ""

    def next(self) -> str:
        """Take the next token, which must be there."""
        token = self.peek()
        if not token:
            raise UnreadableError("the expression ends too early")
        self.position += 1
        return token

    def take(self, *tokens: str) -> bool:
        """Take the next token if it is one of these."""
        if self.peek() in tokens and not self.at_end():
            self.position += 1
            return True
        return False

    def expect(self, token: str) -> None:
        """Take this token, which must be next."""
        if not self.take(token):
            raise UnreadableError(f"expected {token!r}, not {self.peek()!r}")


def is_digits(token: str) -> bool:
    """Return whether a token is a number."""
    return "0" <= token[:1] <= "9" or (token[:1] == "." and len(token) > 1)


def number(token: str) -> sp.Expr:
    """Return the exact rational that a token of digits writes."""
    value = Fraction(token)
    return sp.Rational(value.numerator, value.denominator)
