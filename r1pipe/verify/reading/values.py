"""The values that an answer is read into: scalars, groups, intervals, relations, words.

The leaves are exact: a `Fraction` on the fast path, a sympy expression inside a worker. The same
reader and the same comparison serve both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from r1pipe.verify.reading.units import Unit

if TYPE_CHECKING:
    from fractions import Fraction

    import sympy as sp

Leaf: TypeAlias = "Fraction | sp.Expr"
Bound: TypeAlias = "Fraction | sp.Expr | str"
"""A leaf, or one of the two infinities."""
INFINITY, MINUS_INFINITY = "+infinity", "-infinity"


class UnreadableError(ValueError):
    """The text is not of a kind that this reader knows."""


class TooBigError(UnreadableError):
    """The text writes a number that would not fit in memory or time."""


@dataclass(frozen=True)
class Scalar:
    """One value with unit, percent sign and the name it was given (`n = 5`)."""

    value: Leaf
    unit: Unit | None = None
    is_percent: bool = False
    name: str = ""
    base: int = 0
    """The base of a numeral such as 101_2; 0 where none is written."""
    digits: str = ""


@dataclass(frozen=True)
class Group:
    """Several values: `tuple` (1,2), `bracket` [1,2], `list` 1, 2, `set` {1,2}, `either` of the
    two values of a plus-minus, `blanks` 1; 2 in order, or the sides of a `chain` of equations.
    A tuple's name is its items' names with commas."""

    kind: str
    items: tuple[Value, ...]
    name: str = ""


@dataclass(frozen=True)
class Span:
    """An interval; a single point has equal closed ends."""

    low: Bound
    high: Bound
    is_low_open: bool
    is_high_open: bool


@dataclass(frozen=True)
class Spans:
    """A union of intervals, and the name of the variable where one is written."""

    parts: tuple[Span, ...]
    name: str = ""


@dataclass(frozen=True)
class Relation:
    """An equation or inequality in general, `left op right` with op one of = < <= != ."""

    left: Leaf
    op: str
    right: Leaf


@dataclass(frozen=True)
class Grid:
    """A matrix by rows."""

    rows: tuple[tuple[Leaf, ...], ...]
    name: str = ""


@dataclass(frozen=True)
class Ratio:
    """Terms of a ratio a : b : c, or a clock time."""

    terms: tuple[Leaf, ...]


@dataclass(frozen=True)
class Congruence:
    """A residue of integers modulo another."""

    residue: Leaf
    modulus: Leaf
    name: str = ""


@dataclass(frozen=True)
class Clock:
    """A time of day in seconds; `is_marked` where morning or afternoon is said or plain."""

    seconds: int
    is_marked: bool


@dataclass(frozen=True)
class Words:
    """A word or phrase, normalised."""

    text: str


Value = Scalar | Group | Spans | Relation | Grid | Ratio | Congruence | Clock | Words


def mapped(value: Value, change: Callable[[Leaf], Leaf]) -> Value:
    """Return the value with every leaf changed."""
    if isinstance(value, Scalar):
        return replace(value, value=change(value.value))
    if isinstance(value, Group):
        return replace(value, items=tuple(mapped(item, change) for item in value.items))
    if isinstance(value, Spans):
        ends = [
            [e if isinstance(e, str) else change(e) for e in (p.low, p.high)] for p in value.parts
        ]
        parts = zip(value.parts, ends, strict=True)
        return replace(value, parts=tuple(replace(p, low=e[0], high=e[1]) for p, e in parts))
    if isinstance(value, Relation):
        return replace(value, left=change(value.left), right=change(value.right))
    if isinstance(value, Grid):
        return replace(value, rows=tuple(tuple(map(change, row)) for row in value.rows))
    if isinstance(value, Ratio):
        return replace(value, terms=tuple(map(change, value.terms)))
    return value


def as_spans(value: Value | None) -> Spans | None:
    """Return a value as intervals where it can be one: numbers become points."""
    if isinstance(value, Spans):
        return value
    if isinstance(value, Scalar) and value.unit is None:
        return Spans((Span(value.value, value.value, False, False),), value.name)
    if isinstance(value, Group) and value.kind in ("set", "list", "either"):
        points = [as_spans(item) for item in value.items]
        if all(point is not None for point in points):
            return Spans(tuple(part for p in points if p is not None for part in p.parts))
    return None
