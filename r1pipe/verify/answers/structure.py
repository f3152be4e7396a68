"""Read an answer's structure: sets, tuples, intervals, equations, matrices, ratios, words.

`Reader` is handed the function that reads a scalar, so the same code serves exact rationals on the
fast path and sympy expressions in a worker. One text can have several readings: (1, 2) is a pair
and an open interval.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from r1pipe.verify.answers import scan
from r1pipe.verify.answers.naming import NAME, TEXT, clean_name, is_name, is_variable, with_name
from r1pipe.verify.answers.normalise import strip_lead
from r1pipe.verify.answers.values import (
    INFINITY,
    MINUS_INFINITY,
    Bound,
    Grid,
    Group,
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
from r1pipe.verify.answers.words import normal

MAX_ITEMS = 64

_RELATIONS = {"=": "=", "<": "<", ">": ">", r"\le": "<=", r"\ge": ">=", r"\ne": "!=", r"\lt": "<"}
_RELATIONS |= {r"\gt": ">", r"\approx": "~", r"\equiv": "=", ":=": "="}
_MIRROR = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_MEMBER = re.compile(rf"({NAME})\s*\\in(?![a-zA-Z])\s*(.+)", re.DOTALL)
_BUILDER = re.compile(
    r"\s*([a-zA-Z])\s*(?:\\in\s*\\mathbb\s*\{?\s*R\s*\}?)?\s*(?:\||:)\s*(.+)", re.DOTALL
)
_GRID = re.compile(
    r"\\begin\s*\{([pbBvV]?matrix|array|smallmatrix)\}(?:\{[clr| ]{1,12}\})?(.*)\\end\s*\{\1\}",
    re.DOTALL,
)
_EMPTY = {
    "\\emptyset",
    "\\{\\}",
    "no solution",
    "no solutions",
    "none",
    "empty set",
    "无解",
    "空集",
}
_EMPTY |= {"no real solution", "no real solutions", "\\{ \\}"}
_REALS = {"\\mathbb{R}", "\\mathbb R", "\\R", "all real numbers", "all reals", "全体实数", "实数"}
_CIRCLED = re.compile("[\u2460-\u2473](?:[ ,]*[\u2460-\u2473])*")
_CLOCK = re.compile(r"[0-9]{1,2}:[0-9]{2}\s*[aApP]\.?\s*[mM]\.?")
_NUMERAL = re.compile(
    r"\(?([0-9][0-9A-Fa-f]*|[A-Fa-f]+[0-9][0-9A-Fa-f]*|[A-F]{2,})\)?_\{?\(?([0-9]{1,2})\)?\}?"
)
_PAIRS = {("(", ")"), ("[", "]"), (r"\langle", r"\rangle")}
_GROUPED = re.compile(r"[+-]?[0-9]{1,3},[0-9]{3}(?:\.[0-9]*)?(?![0-9,])[^,]*", re.DOTALL)
_INFINITE = {r"\infty": INFINITY, r"+\infty": INFINITY, r"-\infty": MINUS_INFINITY}
_INFINITE |= {"inf": INFINITY, "-inf": MINUS_INFINITY, "infinity": INFINITY}
_INFINITE |= {"+inf": INFINITY, "-infinity": MINUS_INFINITY}


class Reader:
    """Reads values; `scalar` turns the text of one leaf into a `Scalar` or raises."""

    def __init__(
        self,
        scalar: Callable[[str], Scalar],
        solve: Callable[[list[str], list[str]], Spans | Relation] | None = None,
    ) -> None:
        self.scalar = scalar
        self.solve = solve

    def readings(self, text: str) -> list[Value]:
        """Return every reading of an answer in plain spelling; empty where there is none."""
        return self.read_all(text)[0]

    def read_all(self, text: str) -> tuple[list[Value], bool]:
        """Return every reading, and whether none was given up for want of a better `scalar`."""
        text = strip_lead(text)
        found: list[Value] = []
        is_complete = True
        for read in (self._words, self._whole, self._interval):
            try:
                value = read(text)
            except UnreadableError:
                is_complete = False
                continue
            if value is not None:
                found.append(value)
        return found, is_complete

    def _words(self, text: str) -> Value | None:
        """Read a phrase: text in `\\text{}`, or words of two letters and more."""
        if _CIRCLED.fullmatch(text):
            return Group("set", tuple(Words(mark) for mark in re.findall(r"[^\s,]", text)))
        bare = TEXT.sub(r" \1 ", text)
        if bare.strip() in _EMPTY or bare.strip().lower() in _EMPTY:
            return Group("set", ())
        if _CLOCK.fullmatch(bare.strip()):
            return Words(re.sub(r"[\s.]", "", bare).lower())
        is_dated = re.match(r"\s*[a-zA-Z]{3}", bare) and not re.search(r"[0-9][.,][0-9]", bare)
        if re.search(r"[\\=<>+*/^_{}\[\]|]" if is_dated else r"[\\=<>+*/^_{}\[\]|0-9]", bare):
            return None
        words = normal(bare)
        is_phrase = bool(re.search(r"[a-z]{2}|[一-鿿]", words)) or bare != text
        return Words(words) if words and is_phrase else None

    def _whole(self, text: str) -> Value | None:
        """Read anything but an interval in brackets."""
        glued = scan.glue_words(text)
        if scan.first_at_top(glued, (r"\lor", r"\cup")):
            return self._union(glued)
        member = _MEMBER.fullmatch(glued)
        if member is not None:
            return with_name(self.spans(member.group(2)), member.group(1))
        if scan.first_at_top(glued, (";",)):
            items = [part for part in scan.split_at(glued, ";") if part]
            return Group("blanks", tuple(self.one(item) for item in items))
        if _GROUPED.fullmatch(glued):
            return self._signed(re.sub(r"(?<=[0-9]),(?=[0-9]{3})", "", glued))
        if scan.first_at_top(glued, (",",)):
            return self._listed("list", scan.split_at(glued, ","))
        if scan.first_at_top(glued, _RELATIONS):
            return self.relation(glued)
        return self._closed(glued)

    def _closed(self, text: str) -> Value | None:
        """Read a bracketed group, a matrix, a ratio, or a scalar."""
        if text in _REALS:
            return Spans((Span(MINUS_INFINITY, INFINITY, True, True),))
        grid = _GRID.fullmatch(text)
        if grid is not None:
            return self._grid(grid.group(1), grid.group(2))
        outer = scan.outer_brackets(text)
        if outer is not None and outer[0] == r"\{" and outer[2] == r"\}":
            return self._set(outer[1])
        if outer is not None and (outer[0], outer[2]) in _PAIRS:
            inside = scan.glue_words(outer[1])
            if scan.first_at_top(inside, (",",)):
                kind = "tuple" if outer[0] != "[" else "bracket"
                return self._listed(kind, scan.split_at(inside, ","))
        numeral = _NUMERAL.fullmatch(text)
        if numeral is not None and 2 <= int(numeral.group(2)) <= 36:
            return self._numeral(numeral.group(1), int(numeral.group(2)))
        if scan.first_at_top(text, (":",)):
            return Ratio(tuple(self.leaf(part) for part in scan.split_at(text, ":")))
        return self._signed(text)

    def _signed(self, text: str) -> Value:
        """Read a scalar; one with a plus-minus sign is a set of two."""
        if r"\pm" not in text and r"\mp" not in text:
            return self.scalar(text)
        upper = text.replace(r"\pm", "+").replace(r"\mp", "-")
        lower = text.replace(r"\pm", "-").replace(r"\mp", "+")
        return Group("set", (self.scalar(upper), self.scalar(lower)))

    def _grid(self, kind: str, body: str) -> Grid:
        rows = [row for row in re.split(r"\\\\(?:\[[^\]]{0,8}\])?", body) if row.strip()]
        cells = tuple(tuple(self.leaf(cell) for cell in scan.split_at(row, "&")) for row in rows)
        if not cells or len({len(row) for row in cells}) != 1 or len(cells) > MAX_ITEMS:
            raise UnreadableError("not a matrix")
        return Grid(cells, "determinant" if kind == "vmatrix" else "matrix")

    def _numeral(self, digits: str, base: int) -> Scalar:
        try:
            value = int(digits, base)
        except ValueError:
            raise UnreadableError("a digit that its base lacks") from None
        plain = self.scalar(str(value))
        return Scalar(plain.value, base=base, digits=digits.upper())

    def one(self, text: str) -> Value:
        """Read one item of a group."""
        text = text.strip()
        for read in (self._whole, self._words):
            value = read(text) if text else None
            if value is not None:
                return value
        raise UnreadableError("an empty item")

    def leaf(self, text: str) -> object:
        """Read a bare value, without unit or name."""
        scalar = self.scalar(text.strip())
        if scalar.unit is not None or scalar.is_percent:
            raise UnreadableError("a unit where a bare value belongs")
        return scalar.value

    def _listed(self, kind: str, parts: list[str]) -> Value:
        parts = [part for part in parts if part]
        if not parts or len(parts) > MAX_ITEMS:
            raise UnreadableError("no items, or too many")
        items = [self.one(part) for part in parts]
        names = {getattr(item, "name", "") for item in items}
        if kind == "list" and all(isinstance(item, Scalar) for item in items):
            return _by_name(items, names)
        if kind == "list" and all(isinstance(item, Spans) for item in items):
            return _intersection(items)
        return _distribute(kind, items)

    def _set(self, inside: str) -> Value:
        builder = _BUILDER.fullmatch(inside)
        if builder is not None:
            return self.relation(scan.glue_words(builder.group(2)))
        if not inside:
            return Group("set", ())
        parts = scan.split_at(scan.glue_words(inside), ",")
        value = self._listed("set", parts)
        return Group("set", value.items) if isinstance(value, Group) else Group("set", (value,))

    def _union(self, text: str) -> Value:
        """Read parts joined by "or" or a cup: a union of intervals, or a list of values."""
        parts = [part for part in scan.split_at(text, (r"\lor", r"\cup")) if part]
        if not parts:
            raise UnreadableError("a union of nothing")
        member = _MEMBER.fullmatch(parts[0])
        name = member.group(1) if member is not None else ""
        parts[0] = member.group(2) if member is not None else parts[0]
        if r"\cup" in text or any(
            scan.first_at_top(part, _MIRROR | {r"\le": 0, r"\ge": 0}) for part in parts
        ):
            spans = [self.spans(part) for part in parts]
            names = {span.name for span in spans} - {""} | ({name} - {""})
            if len(names) > 1:
                raise UnreadableError("intervals of different variables")
            return Spans(tuple(p for span in spans for p in span.parts), next(iter(names), ""))
        return self._listed("list", [piece for part in parts for piece in scan.split_at(part, ",")])

    def spans(self, text: str) -> Spans:
        """Read an interval, a union, a relation or a set of points as intervals."""
        text = text.strip()
        for read in (self._interval, self._whole):
            try:
                value = read(text)
            except UnreadableError:
                continue
            spans = as_spans(value)
            if spans is not None:
                return spans
        raise UnreadableError("not an interval")

    def _interval(self, text: str) -> Spans | None:
        outer = scan.outer_brackets(text)
        if outer is None or outer[0] not in ("(", "[") or outer[2] not in (")", "]"):
            return None
        ends = scan.split_at(outer[1], ",")
        if len(ends) != 2:
            return None
        low, high = self.bound(ends[0]), self.bound(ends[1])
        return Spans((Span(low, high, outer[0] == "(", outer[2] == ")"),))

    def bound(self, text: str) -> Bound:
        """Read an end of an interval."""
        key = text.replace(" ", "")
        return _INFINITE[key] if key in _INFINITE else self.leaf(text)

    def relation(self, text: str) -> Value:
        """Read an equation, an inequality, or a chain of either."""
        operands, operators = _chain(text)
        if len(operators) > 4 or "" in operands[1:]:
            raise UnreadableError("not a relation")
        if set(operators) <= {"=", "~"}:
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
            operands, operators = operands[:cut], operators[: cut - 1]
        name = operands[0] if is_name(operands[0]) and len(operands) > 1 else ""
        sides = operands[1:] if name else operands
        if len(sides) == 1:
            value = self.one(sides[0])
            return with_name(value, name) if name else value
        if len(sides) == 2 and not name:
            return self._two_sides(*sides)
        return Group("chain", tuple(self.scalar(side) for side in sides), clean_name(name))

    def _two_sides(self, left: str, right: str) -> Value:
        if is_name(right):
            return with_name(self.one(left), right)
        return Relation(self.leaf(left), "=", self.leaf(right))

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
            if operator not in _MIRROR or index not in (position, position + 1):
                return None
            other = operands[position + 1 if index == position else position]
            seen = operator if index == position else _MIRROR[operator]
            span = _tighten(span, seen, self.bound(other))
        return Spans((span,), name)


def _chain(text: str) -> tuple[list[str], list[str]]:
    """Split at the relations outside every bracket: (operands, operators)."""
    operands: list[str] = []
    operators: list[str] = []
    start = 0
    for position, token, depth in scan.top_level(text):
        if depth == 0 and token in _RELATIONS:
            operands.append(text[start:position].strip())
            operators.append(_RELATIONS[token])
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


def _by_name(items: list[Value], names: set[str]) -> Value:
    """Order `x=1, y=2` by name as a tuple; values of one name, or of none, are a list."""
    if len(names) == len(items) and "" not in names and len(items) > 1:
        ordered = sorted(items, key=lambda item: getattr(item, "name", ""))
        return Group("tuple", tuple(ordered), "named")
    if len(names) == 2 and "" in names:  # x = 1, 2: the values of one name
        return Group("set", tuple(items))
    return Group("list", tuple(items))


def _intersection(items: list[Value]) -> Value:
    """Read `x > 1, x < 3` as one interval, in the one case that needs no solver."""
    parts = [part for item in items if isinstance(item, Spans) for part in item.parts]
    names = {item.name for item in items if isinstance(item, Spans)}
    if len(parts) == 2 == len(items) and len(names) == 1 and "" not in names:
        lows = [part for part in parts if part.low != MINUS_INFINITY]
        highs = [part for part in parts if part.high != INFINITY]
        if len(lows) == len(highs) == 1 and lows[0] is not highs[0]:
            low, high = lows[0], highs[0]
            span = Span(low.low, high.high, low.is_low_open, high.is_high_open)
            return Spans((span,), names.pop())
    return Group("list", tuple(items))


def _distribute(kind: str, items: list[Value]) -> Value:
    """Spread a plus-minus inside a tuple: (+-3, 0) is the set of (3, 0) and (-3, 0)."""
    for index, item in enumerate(items):
        if (
            kind == "tuple"
            and isinstance(item, Group)
            and item.kind == "set"
            and len(item.items) == 2
        ):
            pair = (Group(kind, (*items[:index], one, *items[index + 1 :])) for one in item.items)
            return Group("set", tuple(pair))
    if kind in ("list", "set"):
        flat = [
            inner
            for item in items
            for inner in (item.items if isinstance(item, Group) and item.kind == "set" else (item,))
        ]
        return Group(kind, tuple(flat))
    return Group(kind, tuple(items))
