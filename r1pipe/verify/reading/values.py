"""The values that an answer is read into: scalars, groups, intervals, relations, words.

The leaves are exact: a `Fraction` on the fast path, a sympy expression inside a worker. The same
reader and the same comparison serve both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeAlias, cast

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
    return cast("Value", _mapped(value, change))


def _mapped(part: object, change: Callable[[Leaf], Leaf]) -> object:
    """Go through fields and items; what is no text, number of a field or unit is a leaf."""
    if part is None or isinstance(part, str | int | Unit):
        return part
    if isinstance(part, tuple):
        return tuple(_mapped(item, change) for item in part)
    if isinstance(part, Value):
        changed = (_mapped(getattr(part, field.name), change) for field in fields(part))
        return cast("Callable[..., object]", type(part))(*changed)
    return change(cast("Leaf", part))


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
