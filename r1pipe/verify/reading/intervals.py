"""Read intervals and sets of real numbers; join them, take parts out, find what they share."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import product

from r1pipe.verify.reading import scan
from r1pipe.verify.reading.naming import TEXT
from r1pipe.verify.reading.relations import Relations
from r1pipe.verify.reading.values import (
    INFINITY,
    MINUS_INFINITY,
    Bound,
    Leaf,
    Span,
    Spans,
    UnreadableError,
    Value,
    as_spans,
)
from r1pipe.verify.reading.words import normal

REALS = Spans((Span(MINUS_INFINITY, INFINITY, True, True),))
_REAL_WORDS = re.compile(
    r"(?:the )?(?:set of )?(?:all )?(?:the )?reals?(?: numbers?)?(?: [a-z])?|all [xyt]"
)
_REAL_NAMES = {r"\mathbb{R}", r"\R", "全体实数", "实数", "一切实数", "任意实数"}
_HALF = re.compile(
    r"\\mathbb\{R\}\s*(?:\^\s*\{?\s*([+-])\s*\}?|_\s*\{?\s*([+-]|(?:>|<|\\ge|\\le)\s*0)\s*\}?)"
)
_HALF_WORDS = re.compile(r"(?:all )?(?:the )?(non-?)?(positive|negative) real(?: number)?s?")
_LESS = re.compile(
    r"(.+?)\s*(?:\\(?:setminus|backslash)(?![a-zA-Z])|(?<=\})-(?=\s*\\\{))\s*(.+)", re.DOTALL
)
_EXCEPT = re.compile(r"(?i)(.*?)[, ]*(?:except(?: for)?|other than|but not)\s+(?:x\s*=\s*)?(.+)")
_BRACKETS = ("(", "[", ")", "]")
_IsLess = Callable[[Leaf, Leaf], bool]


class Intervals(Relations):
    """Reads what can be seen as intervals."""

    def whole(self, text: str) -> Value | None:
        """Read anything but an interval in brackets."""
        raise NotImplementedError

    def spans(self, text: str) -> Spans:
        """Read an interval, a union, a relation or a set of points as intervals."""
        text = text.strip()
        for read in (self.interval, self.number_set, self.whole):
            try:
                value = read(text)
            except UnreadableError:
                continue
            spans = as_spans(value)
            if spans is not None:
                return spans
        raise UnreadableError("not an interval")

    def interval(self, text: str) -> Spans | None:
        """Read two ends in brackets; `]0, 2[` is open at both."""
        text = text.strip()
        outer = scan.outer_brackets(text)
        if outer is None and text[:1] in "[](" and text[-1:] in "[])":
            outer = text[:1], text[1:-1], text[-1:]
            if scan.first_at_top(outer[1], _BRACKETS):
                return None
        if outer is None or outer[0] not in _BRACKETS or outer[2] not in _BRACKETS:
            return None
        ends = scan.split_at(outer[1], (",", ";"))
        if len(ends) != 2:
            return None
        low, high = self.bound(ends[0]), self.bound(ends[1])
        return Spans((Span(low, high, outer[0] != "[", outer[2] != "]"),))

    def number_set(self, text: str) -> Spans | None:
        """Read the real numbers, the positive ones, and a set without some of its numbers."""
        bare = normal(TEXT.sub(r" \1 ", text))
        if text.strip() in _REAL_NAMES or _REAL_WORDS.fullmatch(bare):
            return REALS
        half, words = _HALF.fullmatch(text.strip()), _HALF_WORDS.fullmatch(bare)
        if half is not None:
            return self._half("-" in half[0] or "<" in half[0] or "\\le" in half[0], "e" in half[0])
        if words is not None:
            return self._half((words[2] == "negative") == (not words[1]), bool(words[1]))
        match = _LESS.fullmatch(text) or _EXCEPT.fullmatch(TEXT.sub(r" \1 ", text))
        if match is None:
            return None
        taken = complement(merged(self.spans(match[2]), self.is_less))
        return overlap(self.spans(match[1]), taken, self.is_less)

    def _half(self, is_negative: bool, is_closed: bool) -> Spans:
        zero = self.leaf("0")
        if is_negative:
            return Spans((Span(MINUS_INFINITY, zero, True, not is_closed),))
        return Spans((Span(zero, INFINITY, not is_closed, True),))


_Cut = tuple[Bound, bool]
"""A place between numbers: a bound, and whether the place is right above it."""


def _cuts(span: Span) -> tuple[_Cut, _Cut]:
    return (span.low, span.is_low_open), (span.high, not span.is_high_open)


def _span(low: _Cut, high: _Cut) -> Span:
    return Span(low[0], high[0], low[1], not high[1])


def _before(left: _Cut, right: _Cut, is_less: _IsLess) -> bool:
    """Return whether one cut is below another; bounds without an order raise."""
    return _below(left[0], right[0], is_less) or (
        left[1] < right[1] and not _below(right[0], left[0], is_less)
    )


def _below(left: Bound, right: Bound, is_less: _IsLess) -> bool:
    """Return whether one bound is below another; infinities are below and above all."""
    if left in (right, INFINITY) or right == MINUS_INFINITY:
        return False
    if left == MINUS_INFINITY or right == INFINITY:
        return True
    assert not isinstance(left, str), "the infinities are done with"
    assert not isinstance(right, str), "the infinities are done with"
    return is_less(left, right)


def merged(spans: Spans, is_less: _IsLess) -> Spans:
    """Join parts that overlap or touch, and order them; ends that have no order raise."""
    parts: list[tuple[_Cut, _Cut]] = []
    left = [_cuts(span) for span in spans.parts]
    while left:  # a few parts only, and an order that can fail
        first = left[0]
        for other in left[1:]:
            first = other if _before(other[0], first[0], is_less) else first
        left.remove(first)
        if not parts or _before(parts[-1][1], first[0], is_less):
            parts.append(first)
        elif _before(parts[-1][1], first[1], is_less):
            parts[-1] = parts[-1][0], first[1]
    return Spans(tuple(_span(*part) for part in parts), spans.name)


def complement(spans: Spans) -> Spans:
    """Return all real numbers outside of parts that are in order and do not touch."""
    cuts = [cut for span in spans.parts for cut in _cuts(span)]
    ends = [(MINUS_INFINITY, True), *cuts, (INFINITY, False)]
    gaps = [
        _span(low, high)
        for low, high in zip(ends[::2], ends[1::2], strict=True)
        if high[0] != MINUS_INFINITY and low[0] != INFINITY
    ]
    return Spans(tuple(gaps), spans.name)


def overlap(left: Spans, right: Spans, is_less: _IsLess) -> Spans:
    """Return what two unions have in common."""
    parts = []
    for one, other in product(map(_cuts, left.parts), map(_cuts, right.parts)):
        low = other[0] if _before(one[0], other[0], is_less) else one[0]
        high = other[1] if _before(other[1], one[1], is_less) else one[1]
        if _before(low, high, is_less):
            parts.append(_span(low, high))
    return Spans(tuple(parts), left.name or right.name)
