"""Read an answer's structure: sets, tuples, intervals, equations, matrices, ratios, words.

`Reader` is handed the function that reads a scalar, so the same code serves exact rationals on the
fast path and sympy expressions in a worker. One text can have several readings: (1, 2) is a pair
and an open interval.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise, product

from r1pipe.verify.reading import scan
from r1pipe.verify.reading.clocks import read_clock, read_compound
from r1pipe.verify.reading.families import without_qualifier
from r1pipe.verify.reading.grids import Cells, determinant, read_cells
from r1pipe.verify.reading.intervals import Intervals, merged, overlap
from r1pipe.verify.reading.naming import NAME, TEXT, with_name
from r1pipe.verify.reading.normalise import strip_lead
from r1pipe.verify.reading.number_words import number_word
from r1pipe.verify.reading.numerals import read_numeral
from r1pipe.verify.reading.progressions import spelled_out
from r1pipe.verify.reading.relations import (
    ORDERS,
    RELATIONS,
    by_name,
    named_tuples,
    tuple_names,
)
from r1pipe.verify.reading.values import (
    Grid,
    Group,
    Leaf,
    Ratio,
    Scalar,
    Spans,
    UnreadableError,
    Value,
    Words,
)
from r1pipe.verify.reading.words import is_empty_set, is_word, phrase

MAX_ITEMS = 64

_MEMBER = re.compile(rf"({NAME}|\([a-zA-Z, ]{{3,12}}\))\s*\\in(?![a-zA-Z])\s*(.+)", re.DOTALL)
_BUILDER = re.compile(
    r"\s*([a-zA-Z]|\([a-zA-Z, ]{3,12}\))\s*(?:\\in\s*\\mathbb\{R\})?\s*(?:\||:)\s*(.+)", re.DOTALL
)
_MARKED = re.compile(r"\(([1-9])\)")
_MARK = "(?:[\u2460-\u2473]|\\([1-9]\\))"
_CIRCLED = re.compile(rf"{_MARK}(?:[ ,]*{_MARK})*")
_COMMA_OF_GROUP = re.compile(r"(?<=[0-9]),(?=[0-9]{3})")
_PAIRS = {("(", ")"), ("[", "]"), (r"\langle", r"\rangle")}
_GROUPED = re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?(?![0-9,])[^,]*", re.DOTALL)
_ONLY_GROUPS = re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3}){2,}")
_RATIO_WORDS = re.compile(r"\s*(?:\\text\s*\{\s*to\s*\}|(?<!\\)\bto\b|比|\u2236)\s*")
_PADDED = re.compile(r":\s*0[0-9]")
_ENDLESS = re.compile(r"\\infty(?:\s*(?:\\text\{)?\s*solutions\}?)?")
_LOGIC = re.compile(r"\\(?:land|wedge|lor|vee|neg|lnot)(?![a-zA-Z])")
_NAMED_UNION = re.compile(rf"({NAME})\s*(?:\\in(?![a-zA-Z])|=)\s*(.+)", re.DOTALL)
_POINT = re.compile(r"[BD-OQ-Z](?:_\{?[0-9]\}?)?'?\s*(\(.*,.*\))", re.DOTALL)
_CONDITION = re.compile(r"\b(?:if|when|unless|otherwise|provided|in case|as long as)\b|当|若|否则")
_PART = re.compile(r"(?:\\text\{)?(?:\(([a-h1-9]|i{1,3}|iv)\)|[a-h][.)])\}?[:.]?\s+")


class Reader(Intervals):
    """Reads values; `scalar` turns the text of one leaf into a `Scalar` or raises."""

    def readings(self, text: str) -> list[Value]:
        """Return every reading of an answer in plain spelling; empty where there is none."""
        return self.read_all(text)[0]

    def read_all(self, text: str) -> tuple[list[Value], bool]:
        """Return every reading, and whether none was given up for want of a better `scalar`."""
        text = without_qualifier(strip_lead(text))
        label = _PART.match(text) if len(_PART.findall(text)) == 1 else None
        text = (
            text[label.end() :] if label is not None and (label[1] or "1") in "abcdefgh" else text
        )
        forms: Sequence[Callable[[str], Value | None]]
        forms = (self.words, self.whole, self.interval, self.number_set, self.measure)
        if _CONDITION.search(text):
            forms = (self.words,) * (not re.search("[0-9]", text))
        if _LOGIC.search(text) and not scan.first_at_top(text, RELATIONS):
            return [], False
        found: list[Value] = []
        is_complete = True
        for read in forms:
            try:
                value = read(text)
            except UnreadableError:
                is_complete = False
                continue
            if value is not None:
                found.append(value)
        return found, is_complete

    def read_gold(self, text: str) -> tuple[list[Value], bool]:
        """Return the readings of a gold answer: that of a word is no product of its letters."""
        values, is_complete = self.read_all(text)
        if is_word(text):
            kept = (v for v in values if not getattr(getattr(v, "value", 0), "free_symbols", ()))
            values = list(kept)
        return values, is_complete

    def words(self, text: str) -> Value | None:
        """Read a phrase: text in `\\text{}`, or words of two letters and more."""
        if _CIRCLED.fullmatch(text):
            marks = _MARKED.sub(lambda m: chr(0x245F + int(m[1])), text)
            return Group("set", tuple(Words(mark) for mark in re.findall(r"[^\s,]", marks)))
        if is_empty_set(text):
            return Group("set", ())
        if _ENDLESS.fullmatch(text.strip()):
            return Words("infinite")
        bare = TEXT.sub(r" \1 ", text)
        is_dated = re.match(
            r"\s*(?:[0-9]{1,2}(?:st|nd|rd|th)? )?[a-zA-Z]{3}", bare
        ) and not re.search(r"[0-9][.,][0-9]", bare)
        if re.search(r"[\\=<>+*/^_{}\[\]|]" if is_dated else r"[\\=<>+*/^_{}\[\]|0-9]", bare):
            return None
        words = phrase(bare)
        is_phrase = bool(re.search(r"[a-z]{2}|[一-鿿]", words)) or bare != text
        return Words(words) if words and is_phrase else None

    def measure(self, text: str) -> Value | None:
        """Read a time of day, a quantity in several units, or a number in groups of thousands."""
        compound = read_compound(text)
        if compound is not None:
            return Scalar(self.leaf(str(compound[0])), compound[1])
        if _ONLY_GROUPS.fullmatch(text):
            return self.scalar(text.replace(",", ""))
        number = number_word(text)
        return read_clock(text) if number is None else Scalar(self.leaf(str(number)))

    def whole(self, text: str) -> Value | None:
        """Read anything but an interval in brackets."""
        phrased = TEXT.fullmatch(text)
        text = phrased[1] if phrased is not None else text
        glued = scan.glue_words(_RATIO_WORDS.sub(" : ", text))
        if scan.first_at_top(glued, (r"\lor", r"\cup")):
            return self._union(glued)
        member = _MEMBER.fullmatch(glued)
        if member is not None:
            return self._member(member[1], member[2])
        if scan.first_at_top(glued, (";",)):
            return self._separated([part for part in scan.split_at(glued, ";") if part])
        if _GROUPED.fullmatch(glued) and not _ONLY_GROUPS.fullmatch(glued):
            return self._closed(_COMMA_OF_GROUP.sub("", glued))
        if r"\pmod" in glued:
            return self._listed("list", scan.split_at(glued, ","))
        if scan.first_at_top(glued, (",",)):
            return self._listed("list", scan.split_at(glued, ","))
        if scan.first_at_top(glued, RELATIONS):
            return self.relation(glued)
        return self._closed(glued)

    def _member(self, names: str, text: str) -> Value:
        """Read `x \\in (0, 1)` and `(x, y) \\in \\{(1, 2)\\}`."""
        paired = tuple_names(names)
        if paired is not None:
            return named_tuples(self.one(text), paired)
        return with_name(self.spans(text), names)

    def _separated(self, parts: list[str]) -> Value:
        """Read parts between semicolons.

        Two bare values are the blanks of a question, in order, as public keys write them; tuples,
        equations, values with names, and three or more numbers that ascend or descend are a list.
        """
        labels = [_PART.match(part) for part in parts]
        items = [
            self.one(part[label.end() :] if label is not None else part)
            for part, label in zip(parts, labels, strict=True)
        ]
        if all(label is not None for label in labels):
            return Group("blanks", tuple(items))
        bare = [item.value for item in items if isinstance(item, Scalar) and not item.name]
        if len(bare) < len(items):
            return by_name(items) if all(isinstance(i, Scalar) for i in items) else _flat(items)
        if len(bare) > 2 and any(_ascends(order, self.is_less) for order in (bare, bare[::-1])):
            return Group("list", tuple(items))
        return Group("blanks", tuple(items))

    def _closed(self, text: str) -> Value | None:
        """Read a bracketed group, a matrix, a ratio, or a scalar."""
        cells = read_cells(text)
        if cells is not None:
            return self._grid(cells)
        outer = scan.outer_brackets(text)
        if outer is not None and outer[0] == r"\{" and outer[2] == r"\}":
            return self._set(outer[1])
        if outer is not None and (outer[0], outer[2]) in _PAIRS:
            inside = scan.glue_words(outer[1])
            mark = scan.first_at_top(inside, (",", ";"))
            if mark:
                kind = "tuple" if outer[0] != "[" else "bracket"
                return self._listed(kind, scan.split_at(inside, mark))
        numeral = read_numeral(text)
        if numeral is not None:
            digits, base, value = numeral
            return Scalar(self.leaf(str(value)), base=base, digits=digits)
        if scan.first_at_top(text, (":",)) and not _PADDED.search(text):
            return Ratio(tuple(self.leaf(part) for part in scan.split_at(text, ":")))
        point = _POINT.fullmatch(text)
        try:
            return self._signed(text)
        except UnreadableError:
            if point is None:
                raise
            return self._closed(point[1])

    def _signed(self, text: str) -> Value:
        """Read a scalar; one with a plus-minus sign is a set of two, or of one for each sign."""
        if r"\mp" in text or text.count(r"\pm") < 2:
            if r"\pm" not in text and r"\mp" not in text:
                return self.scalar(text)
            upper = text.replace(r"\pm", "+").replace(r"\mp", "-")
            lower = text.replace(r"\pm", "-").replace(r"\mp", "+")
            return Group("either", (self.scalar(upper), self.scalar(lower)))
        pieces = text.split(r"\pm")
        if len(pieces) > 4:
            raise UnreadableError("too many signs")
        signs = product("+-", repeat=len(pieces) - 1)
        texts = ("".join(a + b for a, b in zip(("", *s), pieces, strict=True)) for s in signs)
        return Group("either", tuple(self.scalar(one) for one in texts))

    def _grid(self, cells: Cells) -> Value:
        rows = tuple(tuple(self.leaf(cell) for cell in row) for row in cells.rows)
        if not rows or len({len(row) for row in rows}) != 1 or len(rows) > MAX_ITEMS:
            raise UnreadableError("not a matrix")
        if cells.is_determinant:
            return Scalar(determinant(rows))
        if cells.factor:
            sign = cells.factor + "1" if cells.factor in ("-", "+") else cells.factor
            factor = self.leaf(sign)
            rows = tuple(tuple(factor * cell for cell in row) for row in rows)
        return Grid(rows)

    def one(self, text: str) -> Value:
        """Read one item of a group."""
        text = text.strip()
        if is_word(text) and number_word(text) is None:
            return Words(phrase(text))
        for read in (self.whole, self.number_set, self.words):
            value = read(text) if text else None
            if value is not None:
                return value
        raise UnreadableError("an empty item")

    def _listed(self, kind: str, parts: list[str]) -> Value:
        parts = spelled_out([part for part in parts if part])
        if not parts or len(parts) > MAX_ITEMS:
            raise UnreadableError("no items, or too many")
        if len(parts) > 1 and kind == "list" and all(_PART.match(part) for part in parts):
            return self._separated(parts)
        if len(parts) > 1 and r"\pmod" in parts[-1] and not re.search(r"=|\\pmod", parts[0]):
            return self.congruence(", ".join(parts)) or _flat([])
        items = [self._item(part) for part in parts]
        if kind == "list" and len(items) == 1:
            return items[0]
        if kind == "list" and all(isinstance(item, Scalar) for item in items):
            return by_name(items)
        if kind == "list" and all(isinstance(item, Spans) and item.name for item in items):
            return self._both([item for item in items if isinstance(item, Spans)])
        return _distribute(kind, items)

    def _item(self, part: str) -> Value:
        congruence = self.congruence(part) if r"\pmod" in part else None
        return self.one(part) if congruence is None else congruence

    def _both(self, items: list[Spans]) -> Value:
        """Read `x > 1, x < 3` as one interval; where nothing is left, a comma stood for "or"."""
        if len({item.name for item in items}) != 1:
            return Group("list", tuple(items))
        common = items[0]
        for item in items[1:]:
            common = overlap(common, item, self.is_less)
        every = Spans(tuple(part for item in items for part in item.parts), items[0].name)
        return common if common.parts else merged(every, self.is_less)

    def _set(self, inside: str) -> Value:
        builder = _BUILDER.fullmatch(inside)
        if builder is not None:
            value = self.one(without_qualifier(scan.glue_words(builder[2])))
            if builder[1][0] != "(" and getattr(value, "name", "") not in ("", builder[1]):
                raise UnreadableError("a set of one letter, and a condition on another")
            return Spans(value.parts) if isinstance(value, Spans) else value
        if not inside:
            return Group("set", ())
        image = without_qualifier(inside.replace("|", ",").replace(":", ","))
        if image != inside and not scan.first_at_top(image, ",;"):
            return self.one(image)
        mark = scan.first_at_top(inside, (",", ";")) or ","
        value = self._listed("set", scan.split_at(scan.glue_words(inside), mark))
        return Group("set", value.items) if isinstance(value, Group) else Group("set", (value,))

    def _union(self, text: str) -> Value:
        """Read parts joined by "or" or a cup: a union of intervals, or a list of values."""
        parts = [part for part in scan.split_at(text, (r"\lor", r"\cup")) if part]
        if not parts:
            raise UnreadableError("a union of nothing")
        member = _NAMED_UNION.fullmatch(parts[0]) if r"\cup" in text else None
        name = member[1] if member is not None else ""
        parts[0] = member[2] if member is not None else parts[0]
        if r"\cup" in text or any(scan.first_at_top(part, ORDERS) for part in parts):
            spans = [self.spans(part) for part in parts]
            names = {span.name for span in spans} - {""} | ({name} - {""})
            if len(names) > 1:
                raise UnreadableError("intervals of different variables")
            return Spans(tuple(p for span in spans for p in span.parts), next(iter(names), ""))
        pieces = [piece for part in parts for piece in scan.split_at(part, ",")]
        value = self._listed("list", pieces)
        if isinstance(value, Group) and any(isinstance(item, Words) for item in value.items):
            raise UnreadableError("words to choose from")
        is_list = isinstance(value, Group) and value.kind == "list"
        return Group("set", value.items) if isinstance(value, Group) and is_list else value


def _ascends(values: Sequence[Leaf], is_less: Callable[[Leaf, Leaf], bool]) -> bool:
    return all(is_less(left, right) for left, right in pairwise(values))


def _flat(items: list[Value]) -> Group:
    """Return a list or set with the two values of each plus-minus beside the others."""
    found: list[Value] = []
    for item in items:
        is_several = isinstance(item, Group) and item.kind in ("either", "list")
        found += item.items if isinstance(item, Group) and is_several else (item,)
    return Group("list", tuple(found))


def _distribute(kind: str, items: list[Value]) -> Value:
    """Spread plus-minus inside a tuple: (+-3, 0) is the set of (3, 0) and (-3, 0)."""
    if kind in ("list", "set"):
        return Group(kind, _flat(items).items)
    several = [
        item.items if isinstance(item, Group) and item.kind == "either" else (item,)
        for item in items
    ]
    if kind != "tuple" or all(len(one) == 1 for one in several) or len(items) > 6:
        return Group(kind, tuple(items))
    return Group("either", tuple(Group(kind, one) for one in product(*several)))
