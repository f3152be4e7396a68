"""Read intervals and sets of real numbers; join them, take parts out, find what they share."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

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
        taken = complement(merged(self.spans(match[2]), self.is_less), self.is_less)
        return overlap(self.spans(match[1]), taken, self.is_less)

    def _half(self, is_negative: bool, is_closed: bool) -> Spans:
        zero = self.leaf("0")
        if is_negative:
            return Spans((Span(MINUS_INFINITY, zero, True, not is_closed),))
        return Spans((Span(zero, INFINITY, not is_closed, True),))


def _before(left: Bound, right: Bound, is_less: _IsLess) -> bool:
    """Return whether one end is below another; infinities are below and above all."""
    if left in (right, INFINITY) or right == MINUS_INFINITY:
        return False
    if left == MINUS_INFINITY or right == INFINITY:
        return True
    assert not isinstance(left, str), "the infinities are done with"
    assert not isinstance(right, str), "the infinities are done with"
    return is_less(left, right)


def merged(spans: Spans, is_less: _IsLess) -> Spans:
    """Join parts that overlap or touch, and order them; ends that have no order raise."""
    parts: list[Span] = []
    left = list(spans.parts)
    while left:  # a few parts only, and an order that can fail
        first = left[0]
        for other in left[1:]:
            if _before(other.low, first.low, is_less) or (
                not _before(first.low, other.low, is_less) and first.is_low_open
            ):
                first = other
        left.remove(first)
        if not parts or not _touch(parts[-1], first, is_less):
            parts.append(first)
            continue
        last = parts[-1]
        if _before(last.high, first.high, is_less):
            parts[-1] = Span(last.low, first.high, last.is_low_open, first.is_high_open)
        elif not _before(first.high, last.high, is_less):
            is_open = last.is_high_open and first.is_high_open
            parts[-1] = Span(last.low, last.high, last.is_low_open, is_open)
    return Spans(tuple(parts), spans.name)


def _touch(left: Span, right: Span, is_less: _IsLess) -> bool:
    """Return whether a part that begins later leaves no gap after an earlier one."""
    if _before(right.low, left.high, is_less):
        return True
    is_apart = _before(left.high, right.low, is_less)
    return not is_apart and not (left.is_high_open and right.is_low_open)


def complement(spans: Spans, is_less: _IsLess) -> Spans:
    """Return all real numbers outside of parts that are in order and do not touch."""
    low = Span(MINUS_INFINITY, MINUS_INFINITY, True, True)
    high = Span(INFINITY, INFINITY, True, True)
    gaps = [
        Span(before.high, after.low, not before.is_high_open, not after.is_low_open)
        for before, after in pairwise((low, *spans.parts, high))
        if after.low != MINUS_INFINITY and before.high != INFINITY
    ]
    return Spans(tuple(gaps), spans.name)


def overlap(left: Spans, right: Spans, is_less: _IsLess) -> Spans:
    """Return what two unions have in common."""
    parts = []
    for one in left.parts:
        for other in right.parts:
            low, is_low_open = one.low, one.is_low_open
            if _before(low, other.low, is_less):
                low, is_low_open = other.low, other.is_low_open
            elif not _before(other.low, low, is_less):
                is_low_open = is_low_open or other.is_low_open
            high, is_high_open = one.high, one.is_high_open
            if _before(other.high, high, is_less):
                high, is_high_open = other.high, other.is_high_open
            elif not _before(high, other.high, is_less):
                is_high_open = is_high_open or other.is_high_open
            is_point = not _before(low, high, is_less) and not _before(high, low, is_less)
            if _before(low, high, is_less) or (is_point and not is_low_open and not is_high_open):
                parts.append(Span(low, high, is_low_open, is_high_open))
    return Spans(tuple(parts), left.name or right.name)
