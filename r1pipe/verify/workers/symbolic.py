"""The algebraic layer: sympy, run only inside a worker that can be killed.

Our own reader and parser: exact, strict, and fast. A gold answer that they cannot read whole is
unusable, never compared in part.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache

import sympy as sp

from r1pipe.verify.comparing.choices import same_choice, split_option
from r1pipe.verify.comparing.comparer import Comparer
from r1pipe.verify.comparing.expressions import proportional, same_expression
from r1pipe.verify.comparing.renaming import same_renamed
from r1pipe.verify.reading import scan
from r1pipe.verify.reading.families import domains_conflict
from r1pipe.verify.reading.latex import parse_expression
from r1pipe.verify.reading.normalise import plain
from r1pipe.verify.reading.number_words import worded_number
from r1pipe.verify.reading.numbers import parse_plain_quantity
from r1pipe.verify.reading.structure import Reader
from r1pipe.verify.reading.units import parse_unit
from r1pipe.verify.reading.values import (
    INFINITY,
    MINUS_INFINITY,
    Group,
    Leaf,
    Relation,
    Scalar,
    Span,
    Spans,
    UnreadableError,
    Value,
)

CORRECT, WRONG, GOLD_UNUSABLE = "correct", "wrong", "gold_unusable"
_TRIGONOMETRY = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_UNIT_TAIL = re.compile(
    r"(.*?[0-9a-zA-Z})|!])\s*((?:\\(?:text|mathrm|textrm|mbox|operatorname|rm)\s*\{?\s*~?\s*[a-zA-Z一-鿿°]"
    r"|\^\s*\\circ|\\\$|[一-鿿€£¥]| [a-zA-Z]{2,}).*)",
    re.DOTALL,
)


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
    option, given = split_option(gold), split_option(answer)
    if option is not None and given is not None and option[0] == given[0]:
        answer = plain(given[1])
    gold = _own_text(gold)
    is_itself = answer == gold
    choice = same_choice(gold, answer)
    if choice is not None:
        return CORRECT if choice else WRONG
    golds = _read_gold(gold)
    if not golds:
        return GOLD_UNUSABLE
    answers = golds if is_itself else READER.readings(answer)
    if domains_conflict(gold, answer):
        return WRONG
    if COMPARER.any_same(golds, answers):
        return CORRECT
    is_renamed = same_renamed(golds, answers, (gold, answer), COMPARER)
    return CORRECT if is_renamed else WRONG


def read_gold(gold: str) -> None:
    """Read a gold answer into the cache, by the reader that will verify with it."""
    _read_gold(_own_text(plain(gold)))


def _own_text(answer: str) -> str:
    """Return the text of an option without its letter; any other answer as it is."""
    option = split_option(answer)
    return plain(option[1]) if option is not None else answer


@lru_cache(maxsize=4096)
def _read_gold(gold: str) -> tuple[Value, ...]:
    """Return the readings of a gold answer; `x<3: (-\\infty, 3)` says one twice."""
    values = READER.read_gold(gold)[0]
    if r"\log" in gold and not COMPARER.any_same(values, values):
        values = READER.readings(gold.replace(r"\log", r"\lg"))  # log 0.01 = -2 says its base
    halves = scan.split_at(gold, ":")
    if not values and len(halves) == 2:
        found = [READER.readings(half) for half in halves]
        values = found[0] + found[1] if all(found) else []
    return tuple(values)


def read_scalar(text: str) -> Scalar:
    """Read a value with its unit or percent sign; a number exactly, else by the LaTeX parser."""
    text = text.strip()
    quantity = parse_plain_quantity(text)
    if quantity is not None and not quantity.name:
        value = sp.Rational(quantity.value.numerator, quantity.value.denominator)
        return Scalar(value, quantity.unit, quantity.is_percent)
    worded = worded_number(text)
    if worded is not None:
        value, rest = worded
        unit = parse_unit(rest) if rest not in ("", "%") else None
        return Scalar(sp.Rational(value.numerator, value.denominator), unit, rest == "%")
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
    is_table = unit.powers and re.match(r"[a-zA-Z]{2}", tail.group(2).strip())
    if ("\\" in tail.group(2) and not is_angle) or is_table:
        return Scalar(parse_expression(tail.group(1)), unit)
    try:
        return Scalar(parse_expression(text))
    except UnreadableError:
        return Scalar(parse_expression(tail.group(1)), unit)


def solve_inequality(operands: list[str], operators: list[str]) -> Value:
    """Solve a chain of inequalities in one real variable; with more, keep it as relations."""
    sides = [parse_expression(side) for side in operands]
    symbols = set().union(*(side.free_symbols for side in sides))
    relations = {"<": sp.Lt, "<=": sp.Le, ">": sp.Gt, ">=": sp.Ge, "!=": sp.Ne, "=": sp.Eq}
    if len(symbols) != 1:
        if len(operators) == 1 and symbols:
            return _oriented(sides, operators[0])
        links = zip(sides[:-1], operators, sides[1:], strict=True)
        return Group("set", tuple(_oriented([left, right], sign) for left, sign, right in links))
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


def is_less(left: Leaf, right: Leaf) -> bool:
    """Return whether a real constant is below another; what has letters has no order."""
    difference = sp.sympify(right - left)
    if difference.free_symbols or not difference.is_real:
        raise UnreadableError("values without an order")
    return not same_expression(difference, sp.S.Zero) and bool(difference.evalf(30) > 0)


READER = Reader(read_scalar, solve_inequality, is_less)
COMPARER = Comparer(
    same_expression,
    same_relation,
    lambda value: value * 180 / sp.pi,
    parse_expression,
    is_less,
)
