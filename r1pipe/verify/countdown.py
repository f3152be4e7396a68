"""The Countdown checker: an expression parser over exact rationals; nothing is evaluated as code.

The answer is one expression with + - * / and parentheses (or their LaTeX and Unicode spellings)
that uses each given number exactly once, optionally followed by one `= target`.
"""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction

from r1pipe.records import Problem, Verdict
from r1pipe.verify.reading.extract import find_answer
from r1pipe.verify.reading.normalise import plain

MAX_CHARS = 2000
MAX_DEPTH = 40

_SPELLINGS = {
    r"\times": "*",
    r"\cdot": "*",
    r"\ast": "*",
    r"\div": "/",
    "{": "(",
    "}": ")",
    "[": "(",
    "]": ")",
    r"\{": "(",
    r"\}": ")",
}
_EXACT = re.compile(
    r"[+-]?[0-9]{1,300}(?:/0*[1-9][0-9]{0,300}|\.[0-9]{1,300})?(?:e[+-]?[0-9]{1,3})?", re.ASCII
)
_TOKEN = re.compile(r"\s*(?:([0-9]+)|(\\[a-z]+|\\[{}]|[-+*/(){}\[\]=]))", re.ASCII)


class MalformedError(ValueError):
    """The text is no expression of the allowed kind."""


def check(problem: Problem, text: str) -> Verdict:
    """Verify a completion against `meta["numbers"]` and `meta["target"]`."""
    try:
        numbers = [_whole(number) for number in problem.meta["numbers"]]
        target = exact(problem.meta["target"])
    except (KeyError, TypeError, ValueError):
        return Verdict.GOLD_UNUSABLE
    found = find_answer(text, prefer="tag")
    if found.answer is None:
        return Verdict.NO_ANSWER
    if found.is_hedge:
        return Verdict.WRONG
    try:
        value, used = evaluate(found.answer, target)
    except MalformedError:
        return Verdict.WRONG
    is_right = value == target and Counter(used) == Counter(numbers)
    return Verdict.CORRECT if is_right else Verdict.WRONG


def exact(value: object) -> Fraction:
    """Return a number, or a text of one, as a fraction; ValueError for anything else.

    Digits are bounded, those of an exponent to three: more may ask for more than memory has.
    """
    text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _EXACT.fullmatch(text.strip()):
        raise ValueError("no number")
    return Fraction(text.strip())


def _whole(value: object) -> int:
    number = exact(value)
    if number.denominator != 1:
        raise ValueError("no whole number")
    return int(number)


def evaluate(answer: str, target: Fraction | None = None) -> tuple[Fraction, list[int]]:
    """Return the exact value of an expression and the numbers in it.

    A trailing `= n` is allowed where it states `target`. Raises `MalformedError` on anything else.

    >>> evaluate("(1+2)/3")
    (Fraction(1, 1), [1, 2, 3])
    """
    parser = _Parser(_tokens(answer))
    value = parser.sum()
    if parser.take("="):
        stated = parser.signed_number()
        if target is None or stated != target:
            raise MalformedError("the equation states another target")
    if not parser.at_end():
        raise MalformedError("text after the expression")
    return value, parser.used


def _tokens(answer: str) -> list[str]:
    if len(answer) > MAX_CHARS:
        raise MalformedError("too long")
    if any(char.isdigit() and not "0" <= char <= "9" for char in answer):
        raise MalformedError("digits other than 0 to 9")
    text = plain(answer)
    tokens: list[str] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            if text[position:].isspace():
                break
            raise MalformedError(f"unexpected {text[position]!r}")
        position = match.end()
        token = match.group(1) or match.group(2)
        if token == r"\frac" and text[position : position + 3].strip()[:1].isdigit():
            digits = text[position:].lstrip()[:2]  # \frac12: one digit each
            position = text.index(digits, position) + 2
            tokens += ["(", *("/".join(digits)), ")"]
            continue
        tokens.append(_SPELLINGS.get(token, token))
    return tokens


class _Parser:
    """Recursive descent over + - * / and parentheses, with bounded depth."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.position = 0
        self.depth = 0
        self.used: list[int] = []

    def at_end(self) -> bool:
        return self.position == len(self.tokens)

    def take(self, token: str) -> bool:
        if not self.at_end() and self.tokens[self.position] == token:
            self.position += 1
            return True
        return False

    def sum(self) -> Fraction:
        value = self.product()
        while True:
            if self.take("+"):
                value += self.product()
            elif self.take("-"):
                value -= self.product()
            else:
                return value

    def product(self) -> Fraction:
        value = self.factor()
        while True:
            if self.take("*"):
                value *= self.factor()
            elif self.take("/"):
                value = _divide(value, self.factor())
            else:
                return value

    def factor(self) -> Fraction:
        sign = 1
        while (is_minus := self.take("-")) or self.take("+"):
            sign = -sign if is_minus else sign
        return sign * self.atom()

    def atom(self) -> Fraction:
        if self.take(r"\frac"):
            top = self.group()
            return _divide(top, self.group())
        if not self.at_end() and self.tokens[self.position] == "(":
            return self.group()
        number = self.number()
        self.used.append(number)
        return Fraction(number)

    def group(self) -> Fraction:
        if not self.take("("):
            raise MalformedError("a parenthesis is missing")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise MalformedError("nested too deeply")
        value = self.sum()
        self.depth -= 1
        if not self.take(")"):
            raise MalformedError("a parenthesis is not closed")
        return value

    def number(self) -> int:
        if self.at_end() or not self.tokens[self.position].isdigit():
            raise MalformedError("a number is missing")
        self.position += 1
        return int(self.tokens[self.position - 1])

    def signed_number(self) -> Fraction:
        return Fraction(-self.number() if self.take("-") else self.number())


def _divide(top: Fraction, bottom: Fraction) -> Fraction:
    if not bottom:
        raise MalformedError("division by zero")
    return top / bottom
