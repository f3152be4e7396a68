"""Read equations and inequalities: named values, chains, one variable between bounds."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from r1pipe.verify.reading import scan
from r1pipe.verify.reading.naming import clean_name, is_name, is_variable, stem, with_name
from r1pipe.verify.reading.values import (
    INFINITY,
    MINUS_INFINITY,
    Bound,
    Congruence,
    Group,
    Leaf,
    Relation,
    Scalar,
    Span,
    Spans,
    UnreadableError,
    Value,
)

RELATIONS = {"=": "=", "<": "<", ">": ">", r"\le": "<=", r"\ge": ">=", r"\ne": "!=", r"\lt": "<"}
RELATIONS |= {r"\gt": ">", r"\approx": "~", r"\equiv": "="}
ORDERS = {"<", ">", r"\le", r"\ge", r"\lt", r"\gt"}
MIRROR = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_INFINITE = {r"\infty": INFINITY, r"+\infty": INFINITY, r"-\infty": MINUS_INFINITY}
_INFINITE |= {"inf": INFINITY, "-inf": MINUS_INFINITY, "infinity": INFINITY}
_INFINITE |= {"+inf": INFINITY, "-infinity": MINUS_INFINITY}
_CONGRUENCE = re.compile(r"(?:(.*)\\equiv)?(.*?)\(?\\(?:pmod|mod)(?![a-zA-Z])(.*?)\)?", re.DOTALL)


class Relations:
    """Reads relations; `scalar` turns the text of one leaf into a `Scalar` or raises."""

    def __init__(
        self,
        scalar: Callable[[str], Scalar],
        solve: Callable[[list[str], list[str]], Value] | None = None,
        is_less: Callable[[Leaf, Leaf], bool] = lambda left, right: bool(left < right),
    ) -> None:
        self.scalar = scalar
        self.solve = solve
        self.is_less = is_less

    def one(self, text: str) -> Value:
        """Read one item of a group."""
        raise NotImplementedError

    def leaf(self, text: str) -> Leaf:
        """Read a bare value, without unit or name."""
        scalar = self.scalar(text.strip())
        if scalar.unit is not None or scalar.is_percent:
            raise UnreadableError("a unit where a bare value belongs")
        return scalar.value

    def bound(self, text: str) -> Bound:
        """Read an end of an interval."""
        key = text.replace(" ", "")
        return _INFINITE[key] if key in _INFINITE else self.leaf(text)

    def congruence(self, text: str) -> Value | None:
        r"""Read `x \equiv 3 \pmod 7`, also with several residues."""
        match = _CONGRUENCE.fullmatch(text)
        if match is None:
            return None
        modulus = self.leaf(match[3].strip("{} "))
        residues = scan.split_at(scan.glue_words(match[2].replace(r"\pm", r" \pm ")), ",")
        name = clean_name(match[1] or "")
        found = tuple(Congruence(self.leaf(residue), modulus, name) for residue in residues)
        return found[0] if len(found) == 1 else Group("list", found)

    def relation(self, text: str) -> Value:
        """Read an equation, an inequality, or a chain of either."""
        operands, operators = _chain(text)
        if len(operators) > 4 or "" in operands[1:]:
            raise UnreadableError("not a relation")
        if operators == ["!="] and r"\pm" in text:
            return self.one(", ".join(text.replace(r"\pm", sign) for sign in "+-"))
        if set(operators) <= {"=", "~"}:
            if r"\pm" in text and "," not in text and len(operators) == 1:
                signed = (text.replace(r"\pm", sign) for sign in "+-")
                return Group("either", tuple(self.relation(one) for one in signed))
            return self._equation(operands, operators)
        spans = self._simple_inequality(operands, operators)
        if spans is not None:
            return spans
        if self.solve is None:
            raise UnreadableError("an inequality to solve")
        return self.solve(operands, operators)

    def _equation(self, operands: list[str], operators: list[str]) -> Value:
        """Read `name = value`, an equation of two sides, or a chain of equal values."""
        if "~" in operators:  # pi = 3.14...: what is before the approximation is exact
            cut = operators.index("~") + 1
            if cut > 1 or not is_name(operands[0]):
                self._check_near(operands[cut - 1], operands[cut])
                operands = operands[:cut]
        names = tuple_names(operands[0]) if len(operands) == 2 else None
        if names is not None:
            return named_tuples(self.one(operands[1]), names)
        name = operands[0] if is_name(operands[0]) and len(operands) > 1 else ""
        sides = operands[1:] if name else operands
        if len(sides) == 1:
            value = self.one(sides[0])
            return with_name(value, name) if name else value
        if len(sides) == 2 and not name:
            return self._two_sides(*sides)
        if name and all(is_variable(side) for side in sides[:-1]):  # x = y = 4
            value = self.one(sides[-1])
            return Group("list", tuple(with_name(value, one) for one in operands[:-1]))
        return Group("chain", tuple(self.scalar(side) for side in sides), clean_name(name))

    def _check_near(self, exact: str, rounded: str) -> None:
        """Refuse `\\pi \\approx 4.14`, where the two differ by more than the last digit written."""
        digits = re.search(r"\.([0-9]+)", rounded)
        try:
            sides = self.scalar(exact), self.scalar(rounded)
            values = [float(side.value) / (100 if side.is_percent else 1) for side in sides]
        except (TypeError, ValueError, OverflowError):
            return
        near = abs(values[1]) / 20 if digits is None else 10.0 ** (2 - len(digits[1])) / 100
        if abs(values[0] - values[1]) > near:
            raise UnreadableError("an approximation that is none")

    def _two_sides(self, left: str, right: str) -> Value:
        if is_name(right) and not is_name(left):
            return with_name(self.one(left), right)
        if ":" in right and r"\begin" not in right:
            return self.one(right)  # a : b = 2 : 3
        sides = self._side(left), self._side(right)
        if any(side.unit is not None or side.is_percent for side in sides):
            return Group("chain", sides)
        return Relation(sides[0].value, "=", sides[1].value)

    def _side(self, text: str) -> Scalar:
        """Read a side of an equation; a determinant is a value."""
        value = self.one(text) if r"\begin" in text else self.scalar(text)
        if not isinstance(value, Scalar):
            raise UnreadableError("a side that is no value")
        return value

    def _simple_inequality(self, operands: list[str], operators: list[str]) -> Spans | None:
        """Read `a < x <= b`, `x > a` and `x != a` for one bare variable; else None."""
        names = [index for index, side in enumerate(operands) if is_variable(side)]
        if len(names) != 1 or len(operands) > 3 or "=" in operators:
            return None
        index = names[0]
        name = operands[index]
        if operators == ["!="]:
            point = self.leaf(operands[1 - index])
            both = Span(MINUS_INFINITY, point, True, True), Span(point, INFINITY, True, True)
            return Spans(both, name)
        span = Span(MINUS_INFINITY, INFINITY, True, True)
        for position, operator in enumerate(operators):
            if operator not in MIRROR or index not in (position, position + 1):
                return None
            other = operands[position + 1 if index == position else position]
            seen = operator if index == position else MIRROR[operator]
            span = _tighten(span, seen, self.bound(other))
        return Spans((span,), name)


def _chain(text: str) -> tuple[list[str], list[str]]:
    """Split at the relations outside every bracket: (operands, operators)."""
    operands: list[str] = []
    operators: list[str] = []
    start = 0
    for position, token, depth in scan.top_level(text):
        if depth == 0 and token in RELATIONS:
            operands.append(text[start:position].strip())
            operators.append(RELATIONS[token])
            start = position + len(token)
    operands.append(text[start:].strip())
    if operands[0] == "":
        raise UnreadableError("a relation without its left side")
    return operands, operators


def _tighten(span: Span, operator: str, bound: Bound) -> Span:
    is_open = operator in ("<", ">")
    if operator in ("<", "<="):
        return Span(span.low, bound, span.is_low_open, is_open)
    return Span(bound, span.high, is_open, span.is_high_open)


def tuple_names(text: str) -> tuple[str, ...] | None:
    """Return the names of `(x, y)`, as they are written left of an equals sign."""
    outer = scan.outer_brackets(text)
    if outer is None or outer[0] != "(":
        return None
    names = scan.split_at(outer[1], (",", ";"))
    return tuple(map(clean_name, names)) if len(names) > 1 and all(map(is_name, names)) else None


def named_tuples(value: Value, names: tuple[str, ...]) -> Value:
    """Give names to the items of a tuple, or of each tuple in a list or set."""
    if not isinstance(value, Group):
        raise UnreadableError("names without a tuple")
    if value.kind in ("list", "set", "either"):
        return replace(value, items=tuple(named_tuples(item, names) for item in value.items))
    if value.kind != "tuple" or len(value.items) != len(names):
        raise UnreadableError("more names than values, or fewer")
    return Group("tuple", value.items, ",".join(names))


def by_name(items: list[Value]) -> Value:
    """Read `x=1, y=2` as a tuple with names; values of one name, or of none, are a list."""
    names = [getattr(item, "name", "") for item in items]
    stems = {stem(name) for name in names}
    if len(set(names)) == len(items) > 1 and "" not in names and len(stems) > 1:
        return Group("tuple", tuple(items), ",".join(names))
    if len(stems) == 2 and "" in stems:  # x = 1, 2: the values of one name
        return Group("set", tuple(items))
    return Group("list", tuple(items))
