"""The algebraic layer: sympy and math-verify, run only inside a worker that can be killed.

Own reader and parser first: exact, strict, and fast. What they do not know in the gold answer
(sums, integrals, congruences) goes to math-verify, with limits that its known false positives do
not pass.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache

import sympy as sp

from r1pipe.verify.answers import scan
from r1pipe.verify.answers.compare import Comparer, same_choice
from r1pipe.verify.answers.expressions import proportional, same_expression
from r1pipe.verify.answers.latex import parse_expression
from r1pipe.verify.answers.normalise import plain
from r1pipe.verify.answers.numbers import parse_plain_quantity
from r1pipe.verify.answers.structure import Reader
from r1pipe.verify.answers.units import parse_unit
from r1pipe.verify.answers.values import (
    INFINITY,
    MINUS_INFINITY,
    Relation,
    Scalar,
    Span,
    Spans,
    TooBigError,
    UnreadableError,
    Value,
)

CORRECT, WRONG, GOLD_UNUSABLE = "correct", "wrong", "gold_unusable"
_PRECISION, _ROUNDING = 60, 12
_EXOTIC = re.compile(
    r"\\(?:int|iint|oint|sum|prod|lim|limsup|liminf|partial|nabla|pmod|bmod|mod|gcd|lcm|det|max|min|cap"
    r"|setminus|backslash|overline|dots|ldots|cdots|forall|exists|begin|mathbb|subset)(?![a-zA-Z])"
)
_TRIGONOMETRY = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_CHINESE_DIGITS = {digit: value for value, digit in enumerate("零一二三四五六七八九")} | {"两": 2}
_CHINESE_NUMBER = re.compile(
    "[零一二三四五六七八九两]|[一二三四五六七八九]?十[一二三四五六七八九]?"
)
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_UNIT_TAIL = re.compile(
    r"(.*?[0-9a-zA-Z})|!])\s*((?:\\(?:text|mathrm|textrm|mbox|operatorname|rm)\s*\{?\s*~?\s*[a-zA-Z一-鿿°]"
    r"|\^\s*\\circ|\\\$|[一-鿿€£¥]| [a-zA-Z]{2,}).*)",
    re.DOTALL,
)
_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen twenty"
)
_NUMBER_WORDS = {word: value for value, word in enumerate(_SMALL.split())}
_TENS = {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60} | {
    "seventy": 70,
    "eighty": 80,
    "ninety": 90,
}


def warm_up() -> None:
    """Import and run once what the first pairs would otherwise wait for."""
    logging.disable(logging.CRITICAL)
    for gold, answer in (
        (r"\frac{1}{2}x^2", "x^2/2"),
        ("(1,2]", r"1<x\le 2"),
        (r"\sqrt{8}+\pi", r"2\sqrt{2}"),
        (r"\int_0^1 x dx", r"\frac{1}{2}"),
        ("x^2>4", "x>2"),
        (r"\sin x", r"2\sin\frac{x}{2}\cos\frac{x}{2}"),
    ):
        verdict(gold, answer)


def verdict(gold: str, answer: str) -> str:
    """Return whether the answer equals the gold one: `correct`, `wrong` or `gold_unusable`."""
    gold, answer = plain(gold), plain(answer)
    choice = same_choice(gold, answer)
    if choice is not None:
        return CORRECT if choice else WRONG
    golds = _read_gold(gold)
    if golds:
        answers = READER.readings(answer)
        if COMPARER.any_same(golds, answers):
            return CORRECT
        if answers or not _EXOTIC.search(answer):
            return WRONG
    return _by_math_verify(gold, answer)


def read_gold(gold: str) -> None:
    """Read a gold answer into the cache, by the reader that will verify with it."""
    gold = plain(gold)
    if not _read_gold(gold):
        _parse_gold(gold)


@lru_cache(maxsize=4096)
def _read_gold(gold: str) -> tuple[Value, ...]:
    return tuple(READER.readings(gold))


def read_scalar(text: str) -> Scalar:
    """Read a value with its unit or percent sign; a number exactly, else by the LaTeX parser."""
    text = text.strip()
    quantity = parse_plain_quantity(text)
    if quantity is not None and not quantity.name:
        value = sp.Rational(quantity.value.numerator, quantity.value.denominator)
        return Scalar(value, quantity.unit, quantity.is_percent)
    number = _number_word(text)
    if number is not None:
        return Scalar(sp.Integer(number))
    bottom, is_share, top = text.partition("分之")
    if is_share and bottom != "百":
        parts = _number_word(top), _number_word(bottom)
        if parts[0] is not None and parts[1]:
            return Scalar(sp.Rational(parts[0], parts[1]))
    if text.endswith("%"):
        return Scalar(parse_expression(text.rstrip("%").rstrip("\\")), is_percent=True)
    lead = re.match(r"\\\$|[£€¥]", text)
    if lead is not None:
        return Scalar(parse_expression(text[lead.end() :]), parse_unit(lead.group()))
    tail = _UNIT_TAIL.fullmatch(text)
    unit = parse_unit(tail.group(2).strip()) if tail is not None else None
    if tail is None or unit is None:
        return Scalar(parse_expression(text))
    is_angle = tail.group(2).startswith("^") and _TRIGONOMETRY.search(tail.group(1))
    if "\\" in tail.group(2) and not is_angle:
        return Scalar(parse_expression(tail.group(1)), unit)
    try:
        return Scalar(parse_expression(text))
    except UnreadableError:
        return Scalar(parse_expression(tail.group(1)), unit)


def _chinese(digit: str, empty: int) -> int:
    return _CHINESE_DIGITS[digit] if digit else empty


def _number_word(text: str) -> int | None:
    """Return the value of a number in words up to ninety-nine, else None."""
    bare = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text).strip().lower()
    if bare in _NUMBER_WORDS:
        return _NUMBER_WORDS[bare]
    if _CHINESE_NUMBER.fullmatch(bare):
        tens, ten, ones = bare.rpartition("十")
        return _chinese(tens, 1 if ten else 0) * 10 + _chinese(ones, 0)
    tens, _, ones = bare.replace(" ", "-").partition("-")
    if tens in _TENS or (tens == "twenty" and ones):
        one = _NUMBER_WORDS.get(ones, -1) if ones else 0
        return _TENS.get(tens, 20) + one if 0 <= one < 10 else None
    return None


def solve_inequality(operands: list[str], operators: list[str]) -> Spans | Relation:
    """Solve a chain of inequalities in one real variable; with more, keep it as a relation."""
    sides = [parse_expression(side) for side in operands]
    symbols = set().union(*(side.free_symbols for side in sides))
    relations = {"<": sp.Lt, "<=": sp.Le, ">": sp.Gt, ">=": sp.Ge, "!=": sp.Ne, "=": sp.Eq}
    if len(symbols) != 1:
        if len(operators) == 1 and symbols:
            return _oriented(sides, operators[0])
        raise UnreadableError("a chain in several variables")
    symbol = symbols.pop()
    real = sp.Symbol(symbol.name, real=True)
    solution: sp.Set = sp.S.Reals
    for left, operator, right in zip(sides[:-1], operators, sides[1:], strict=True):
        relation = relations[operator](left.subs(symbol, real), right.subs(symbol, real))
        if relation not in (sp.true, sp.false):
            relation = sp.solveset(relation, real, sp.S.Reals)
            solution = solution.intersect(relation)
    return Spans(_parts(solution), symbol.name)


def _oriented(sides: list[sp.Expr], operator: str) -> Relation:
    """Write a > b as b < a, so that both directions compare equal."""
    left, right = sides
    if operator in (">", ">="):
        left, right, operator = right, left, {">": "<", ">=": "<="}[operator]
    return Relation(left, operator, right)


def _parts(solution: sp.Set) -> tuple[Span, ...]:
    if isinstance(solution, sp.Union):
        return tuple(part for piece in solution.args for part in _parts(piece))
    if isinstance(solution, sp.FiniteSet):
        return tuple(Span(point, point, False, False) for point in solution.args)
    if isinstance(solution, sp.Interval):
        low = MINUS_INFINITY if solution.start == -sp.oo else solution.start
        high = INFINITY if solution.end == sp.oo else solution.end
        return (Span(low, high, bool(solution.left_open), bool(solution.right_open)),)
    if solution is sp.S.EmptySet:
        return ()
    raise UnreadableError("a solution set of another kind")


def same_relation(gold: Relation, answer: Relation) -> bool:
    """Compare equations up to a constant factor, inequalities up to a positive one."""
    if gold.op != answer.op:
        return False
    left, right = gold.left - gold.right, answer.left - answer.right
    if gold.op in ("=", "!="):
        numerators = (sp.fraction(sp.together(side))[0] for side in (left, right))
        return proportional(left, right) or proportional(*numerators)
    return same_expression(left, right) or (
        proportional(left, right) and bool(sp.simplify(left / right).is_positive)
    )


READER = Reader(read_scalar, solve_inequality)
COMPARER = Comparer(
    same_expression, same_relation, lambda value: value * 180 / sp.pi, parse_expression
)


def _by_math_verify(gold: str, answer: str) -> str:
    """Ask math-verify, with its roundings tightened, about answers that our reader cannot read."""
    from math_verify import verify

    parsed = _parse_gold(gold)
    if not parsed:
        return GOLD_UNUSABLE
    if _slips_through(gold, answer) or _is_too_big(answer):
        return WRONG
    given = _parse(answer)
    is_right = bool(given) and verify(
        list(parsed),
        given,
        float_rounding=_ROUNDING,
        numeric_precision=_PRECISION,
        allow_set_relation_comp=True,
        timeout_seconds=None,
        raise_on_error=False,
    )
    return CORRECT if is_right else WRONG


def _is_too_big(answer: str) -> bool:
    try:
        parse_expression(answer)
    except TooBigError:
        return True
    except UnreadableError:
        return False
    return False


def _slips_through(gold: str, answer: str) -> bool:
    """Return whether math-verify would accept too much: equations compared by their last side, and
    trailing letters cut off as units."""
    if scan.first_at_top(answer, "=") and not scan.first_at_top(gold, "="):
        return True
    letters = [set(re.findall("[a-zA-Z]", _COMMAND.sub(" ", text))) for text in (gold, answer)]
    return not letters[1] <= letters[0]


@lru_cache(maxsize=4096)
def _parse_gold(gold: str) -> tuple[sp.Basic | str, ...]:
    return tuple(_parse(gold))


def _parse(text: str) -> list[sp.Basic | str]:
    from math_verify import parse

    wrapped = f"\\boxed{{{text}}}"
    parsed = parse(wrapped, parsing_timeout=None, raise_on_error=False)
    return [value for value in parsed if not isinstance(value, str)] and list(parsed)
