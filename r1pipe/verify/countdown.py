"""The Countdown checker: expressions over exact rationals; nothing is evaluated as code.

The answer is one expression with + - * / and parentheses (or their LaTeX and Unicode spellings)
that uses each given number exactly once, optionally followed by one `= target`.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from fractions import Fraction
from operator import add, mul, sub

from r1pipe.records import Problem, Verdict
from r1pipe.verify.reading.extract import find_answer
from r1pipe.verify.reading.normalise import plain

MAX_CHARS = 2000
_SPELLINGS = {r"\times": "*", r"\cdot": "*", r"\ast": "*", r"\div": "/", r"\frac": "frac"}
_SPELLINGS |= {**dict.fromkeys(("{", "[", r"\{"), "("), **dict.fromkeys(("}", "]", r"\}"), ")")}
_EXACT = re.compile(
    r"[+-]?[0-9]{1,300}(?:/0*[1-9][0-9]{0,300}|\.[0-9]{1,300})?(?:e[+-]?[0-9]{1,3})?", re.ASCII
)
_STATED = re.compile(r" -? ?[0-9]+")
_SHORT_FRACTION = re.compile(r"\\frac\s*([0-9])([0-9])")
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
    said, equals, stated = " ".join(_tokens(answer)).partition("=")
    if equals and (not _STATED.fullmatch(stated) or Fraction(stated.replace(" ", "")) != target):
        raise MalformedError("the equation states another target")
    try:
        tree = ast.parse(said.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise MalformedError("no expression") from None
    used: list[int] = []
    return _value(tree, used), used


def _tokens(answer: str) -> list[str]:
    """Return the tokens of an expression as Python writes them; `\frac12` has one digit each."""
    if len(answer) > MAX_CHARS:
        raise MalformedError("too long")
    if any(char.isdigit() and not "0" <= char <= "9" for char in answer):
        raise MalformedError("digits other than 0 to 9")
    text = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", plain(answer)).strip()
    tokens: list[str] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise MalformedError(f"unexpected {text[position]!r}")
        position = match.end()
        number, sign = match.groups()
        tokens.append(str(int(number)) if number else _SPELLINGS.get(sign, sign))
    return tokens


def _value(node: ast.expr, used: list[int]) -> Fraction:
    """Return the value of a tree; a chain of operations is walked in a loop, however long."""
    chain: list[tuple[ast.operator, ast.expr]] = []
    sign = 1
    while isinstance(node, ast.BinOp):
        chain.append((node.op, node.right))
        node = node.left
    while isinstance(node, ast.UnaryOp):
        sign = -sign if isinstance(node.op, ast.USub) else sign
        node = node.operand
    match node:
        case ast.Constant(value=int(number)):
            used.append(number)
            value = Fraction(number)
        case ast.Call(func=ast.Call(func=ast.Name(id="frac"), args=[top]), args=[bottom]):
            value = _divide(_value(top, used), _value(bottom, used))
        case ast.BinOp():  # in parentheses, behind a sign
            value = _value(node, used)
        case _:
            raise MalformedError("neither a number nor a group")
    value *= sign
    for operator, right in reversed(chain):
        operation = _OPERATIONS[type(operator)]
        value = operation(value, _value(right, used))
    return value


def _divide(top: Fraction, bottom: Fraction) -> Fraction:
    if not bottom:
        raise MalformedError("division by zero")
    return top / bottom


_OPERATIONS = {ast.Add: add, ast.Sub: sub, ast.Mult: mul, ast.Div: _divide}
