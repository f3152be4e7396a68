"""Compare two values of the same or of different kinds, by the rules that r1pipe promises.

Exact golds demand exact answers. A unit, a percent sign or a name may be missing on one side, and
two different ones conflict. Tuples are ordered; lists and sets are not; a set of one element is
that element. An equation whose sides differ is wrong whatever its last side says.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from math import gcd

from r1pipe.verify.comparing.quantities import same_quantity
from r1pipe.verify.reading.intervals import merged
from r1pipe.verify.reading.naming import argument_of, same_name
from r1pipe.verify.reading.values import (
    INFINITY,
    MINUS_INFINITY,
    Bound,
    Clock,
    Congruence,
    Grid,
    Group,
    Leaf,
    Ratio,
    Relation,
    Scalar,
    Span,
    Spans,
    UnreadableError,
    Value,
    Words,
    as_spans,
)

Same = Callable[[Leaf, Leaf], bool]
_BOUNDS = (INFINITY, MINUS_INFINITY)


class Comparer:
    """Compares values; `same` says whether two leaves are equal."""

    def __init__(
        self,
        same: Same,
        same_relation: Callable[[Relation, Relation], bool] | None = None,
        as_degrees: Callable[[Leaf], Leaf] | None = None,
        read_name: Callable[[str], Leaf] | None = None,
        is_less: Callable[[Leaf, Leaf], bool] = lambda left, right: bool(left < right),
    ) -> None:
        self.same_leaf = same
        self.same_relation = same_relation
        self.as_degrees = as_degrees
        self.read_name = read_name
        self.is_less = is_less

    def any_same(self, golds: Sequence[Value], answers: Sequence[Value]) -> bool:
        """Return True when some reading of the answer equals some reading of the gold."""
        return any(self.same(gold, answer) for gold in golds for answer in answers)

    def same(self, gold: Value, answer: Value) -> bool:  # noqa: C901 - one line for each shape
        """Return True when the answer equals the gold value."""
        if _names_conflict(gold, answer):
            left, right = self._as_relation(gold), self._as_relation(answer)
            return self._relations(left, right) and _has_letters(left)
        chain = self._chain(answer)
        if chain is not None:
            return self.same(gold, chain)
        gold_chain = self._chain(gold)
        if gold_chain is not None:
            return self.same(gold_chain, answer)
        if any(isinstance(side, Group) and side.kind == "chain" for side in (gold, answer)):
            return False
        if isinstance(gold, Spans) or isinstance(answer, Spans):
            return self._spans(gold, answer)
        gold, answer = self._single(gold), self._single(answer)
        if isinstance(gold, Scalar) and isinstance(answer, Scalar):
            return self._scalars(gold, answer)
        if isinstance(gold, Group) and isinstance(answer, Group):
            return self._groups(gold, answer)
        if isinstance(gold, Words) and isinstance(answer, Words):
            return gold.text == answer.text
        if isinstance(gold, Clock) and isinstance(answer, Clock):
            day = 86400 if gold.is_marked and answer.is_marked else 43200
            return (gold.seconds - answer.seconds) % day == 0
        if isinstance(gold, Congruence) and isinstance(answer, Congruence):
            return self._congruences(gold, answer)
        if isinstance(gold, Grid) and isinstance(answer, Grid):
            return self._grids(gold, answer)
        if isinstance(gold, Relation) or isinstance(answer, Relation):
            return self._relations(self._as_relation(gold), self._as_relation(answer))
        return self._ratios(gold, answer)

    def _single(self, value: Value) -> Value:
        """Take the element out of a set or list of one value, unless that is a set itself."""
        if isinstance(value, Group) and value.kind in ("set", "list") and value.items:
            first, others = value.items[0], value.items[1:]
            is_set = isinstance(first, Group) and first.kind == "set"
            if not is_set and all(self.same(first, other) for other in others):
                return self._single(first)
        return value

    def _as_relation(self, value: Value) -> Relation | None:
        """Return `y = 2x`, read as a named value, as the equation that it is too."""
        if isinstance(value, Scalar) and value.name and self.read_name is not None:
            return Relation(self.read_name(value.name), "=", value.value)
        return value if isinstance(value, Relation) else None

    def _relations(self, gold: Relation | None, answer: Relation | None) -> bool:
        if gold is None or answer is None or self.same_relation is None:
            return False
        return self.same_relation(gold, answer)

    def _congruences(self, gold: Congruence, answer: Congruence) -> bool:
        if not self.same_leaf(gold.modulus, answer.modulus):
            return False
        times = (gold.residue - answer.residue) / gold.modulus
        return self.same_leaf(gold.residue, answer.residue) or times == int_or_none(times)

    def _chain(self, value: Value) -> Scalar | None:
        """Return the value of `a = b = c` where all sides are equal; a false chain is none."""
        if isinstance(value, Relation) and value.op == "=":
            return Scalar(value.right) if self.same_leaf(value.left, value.right) else None
        if not isinstance(value, Group) or value.kind != "chain":
            return None
        sides = [item for item in value.items if isinstance(item, Scalar)]
        first = sides[0]
        if not all(self._scalars(first, side) for side in sides[1:]):
            return None
        last = sides[-1]
        return Scalar(last.value, last.unit, last.is_percent, value.name)

    def _scalars(self, gold: Scalar, answer: Scalar) -> bool:
        if gold.base and (answer.base or self._is_numeral(gold, answer)):
            return (
                (gold.base, gold.digits) == (answer.base, answer.digits)
                or not answer.base
                or (gold.base != answer.base and self.same_leaf(gold.value, answer.value))
            )
        return same_quantity(gold, answer, self.same_leaf) or self._angles(gold, answer)

    def _is_numeral(self, gold: Scalar, answer: Scalar) -> bool:
        """True when the answer writes the gold's own digits and leaves the base out."""
        return (
            not answer.base
            and gold.digits.isdigit()
            and bool(answer.value == Fraction(int(gold.digits)))
        )

    def _angles(self, gold: Scalar, answer: Scalar) -> bool:
        """Compare degrees with bare radians, which need a factor that is not rational."""
        if self.as_degrees is None or gold.is_percent or answer.is_percent:
            return False
        marked, bare = (gold, answer) if _is_degree(gold) else (answer, gold)
        is_radian = bare.unit is None or bare.unit.powers == (("rad", 1),)
        return (
            is_radian
            and _is_degree(marked)
            and self.same_leaf(marked.value, self.as_degrees(bare.value))
        )

    def _groups(self, gold: Group, answer: Group) -> bool:
        answer = _in_names_order(gold.name, answer)
        kinds = {"set" if kind == "either" else kind for kind in (gold.kind, answer.kind)}
        if kinds == {"bracket"}:
            return self._in_order(gold.items, answer.items)
        if "bracket" in kinds and len(gold.items) == 2:
            return False  # [0, 1] is an interval before it is a list
        if kinds & {"tuple", "blanks"} and not ("set" in kinds and "blanks" in kinds):
            return "set" not in kinds and self._in_order(gold.items, answer.items)
        if "set" in kinds:
            return self._covers(gold.items, answer.items) and self._covers(answer.items, gold.items)
        if "bracket" in kinds:
            return self._in_order(gold.items, answer.items)
        return len(gold.items) == len(answer.items) and self._matched(gold.items, answer.items)

    def _in_order(self, golds: Sequence[Value], answers: Sequence[Value]) -> bool:
        return len(golds) == len(answers) and all(map(self.same, golds, answers))

    def _covers(self, golds: Sequence[Value], answers: Sequence[Value]) -> bool:
        return all(any(self.same(gold, answer) for answer in answers) for gold in golds)

    def _matched(self, golds: Sequence[Value], answers: Sequence[Value]) -> bool:
        """Pair every gold item with an answer of its own; equality makes greedy pairing exact."""
        left = list(answers)
        for gold in golds:
            hit = next(
                (index for index, answer in enumerate(left) if self.same(gold, answer)), None
            )
            if hit is None:
                return False
            left.pop(hit)
        return True

    def _spans(self, gold: Value, answer: Value) -> bool:
        left, right = as_spans(gold), as_spans(answer)
        if left is None or right is None:
            return False
        with contextlib.suppress(UnreadableError):  # ends in letters have no order
            left, right = merged(left, self.is_less), merged(right, self.is_less)
        golds, answers = list(left.parts), list(right.parts)
        if len(golds) != len(answers):
            return False
        for part in golds:
            hit = next((i for i, other in enumerate(answers) if self._same_span(part, other)), None)
            if hit is None:
                return False
            answers.pop(hit)
        return True

    def _same_span(self, gold: Span, answer: Span) -> bool:
        return (
            self._same_bound(gold.low, answer.low)
            and self._same_bound(gold.high, answer.high)
            and (gold.is_low_open == answer.is_low_open or gold.low in _BOUNDS)
            and (gold.is_high_open == answer.is_high_open or gold.high in _BOUNDS)
        )

    def _same_bound(self, gold: Bound, answer: Bound) -> bool:
        if isinstance(gold, str) or isinstance(answer, str):
            return isinstance(gold, str) and isinstance(answer, str) and gold == answer
        return self.same_leaf(gold, answer)

    def _grids(self, gold: Grid, answer: Grid) -> bool:
        shapes = [[len(row) for row in grid.rows] for grid in (gold, answer)]
        if shapes[0] != shapes[1]:
            return False
        pairs = zip(
            (cell for row in gold.rows for cell in row),
            (cell for row in answer.rows for cell in row),
            strict=True,
        )
        return all(self.same_leaf(left, right) for left, right in pairs)

    def _ratios(self, gold: Value, answer: Value) -> bool:
        """Compare a : b with c : d or with a fraction; only a reduced gold may be scaled."""
        left, right = _terms(gold), _terms(answer)
        if (
            left is None
            or right is None
            or not (isinstance(gold, Ratio) or isinstance(answer, Ratio))
        ):
            return False
        if len(left) != len(right) or not (isinstance(gold, Scalar) or _is_reduced(left)):
            same_length = len(left) == len(right)
            return same_length and all(map(self.same_leaf, left, right))
        return all(
            self.same_leaf(left[0] * other, right[0] * own)
            for own, other in zip(left[1:], right[1:], strict=True)
        )


def _is_degree(value: Scalar) -> bool:
    return value.unit is not None and value.unit.powers == (("degree", 1),)


def int_or_none(value: Leaf) -> int | None:
    """Return a leaf as a whole number, or None where it is none."""
    try:
        return int(value) if int(value) == value else None
    except (TypeError, ValueError):
        return None


def _has_letters(relation: Relation | None) -> bool:
    """Return whether letters stand on the right: a = b + c is also b = a - c."""
    return relation is not None and bool(getattr(relation.right, "free_symbols", ()))


def _in_names_order(names: str, answer: Group) -> Group:
    """Put a named tuple in the order of the gold answer's names; else in the alphabet's."""
    own = answer.name.split(",")
    if answer.kind != "tuple" or len(own) != len(answer.items) or len(set(own)) < len(own):
        return answer
    wanted = names.split(",")
    if sorted(wanted) != sorted(own):
        wanted = sorted(own)
        if "".join(wanted) not in "abcdefghijklmnopqrstuvwxyz":
            return answer
    return Group("tuple", tuple(answer.items[own.index(name)] for name in wanted), answer.name)


def _names_conflict(gold: Value, answer: Value) -> bool:
    left, right = getattr(gold, "name", ""), getattr(answer, "name", "")
    if argument_of(left) != argument_of(right) and argument_of(left) and argument_of(right):
        value = getattr(gold, "value", None)
        return not same_name(left, right) or bool(getattr(value, "free_symbols", ()))
    if "," in left and "," in right:
        return sorted(left.split(",")) != sorted(right.split(","))
    return bool(left and right and not same_name(left, right))


def _terms(value: Value) -> tuple[Leaf, ...] | None:
    """Return the terms of a ratio; a fraction is the ratio of its two parts."""
    if isinstance(value, Ratio):
        return value.terms
    if isinstance(value, Scalar) and value.unit is None and not value.is_percent:
        number = value.value
        if isinstance(number, Fraction):
            return Fraction(number.numerator), Fraction(number.denominator)
        return number.as_numer_denom()  # type: ignore[no-any-return]
    return None


def _is_reduced(terms: Sequence[Leaf]) -> bool:
    """True for terms without a common factor, such as 2:3; a clock time often has one."""
    whole = [int_or_none(term) for term in terms]
    return None in whole or gcd(*(term for term in whole if term is not None)) == 1
