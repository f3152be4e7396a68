"""Times of day, and quantities in several units: 2:30 PM, 1 hour 30 minutes, 2 ft 6 in."""

from __future__ import annotations

import re
from fractions import Fraction

from r1pipe.verify.reading.naming import TEXT
from r1pipe.verify.reading.units import Unit, conversion, parse_unit
from r1pipe.verify.reading.values import Clock

_HALVES = {"am": 0, "pm": 12, "上午": 0, "早上": 0, "凌晨": 0, "下午": 12, "晚上": 12}
_CLOCK = re.compile(
    r"(上午|下午|早上|晚上|凌晨)?(?:at )?([0-9]{1,2})"
    r"(?:(?::|时|点)([0-9]{2})?(?::([0-9]{2}))?分?|(?=[ap]m|o'))"
    r"(?:o'clock)?([ap]m|noon|midnight)?"
)
_WORDS = (
    (re.compile(r"\b([ap])\.?\s?m\.?(?![a-z])"), r"\1m"),
    (re.compile(r"(?:in the|this) (?:afternoon|evening)"), "pm"),
    (re.compile(r"in the morning"), "am"),
)
_NAMED = {"noon": 43200, "midnight": 0, "12noon": 43200, "12midnight": 0, "正午": 43200}
_PART = re.compile(
    r"\s*(?:,|and\b|和|零)?\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*"
    r"(\^\s*\\circ|''|'|\"|[a-zA-Z]{1,12}|[一-鿿]{1,3})\.?"
)
_ARC = {"'": Fraction(1, 60), "minutes": Fraction(1, 60), "''": Fraction(1, 3600)}
_MINUTE, _FEN = parse_unit("minute"), Unit((("yuan", 1),), Fraction(1, 100))


def read_clock(text: str) -> Clock | None:
    """Return the time of day that a text writes, or None."""
    bare = TEXT.sub(r"\1", text).replace("~", " ").strip().lower()
    for pattern, spelling in _WORDS:
        bare = pattern.sub(spelling, bare)
    bare = bare.replace(" ", "").rstrip(".")
    if bare in _NAMED:
        return Clock(_NAMED[bare], True)
    match = _CLOCK.fullmatch(bare)
    if match is None:
        return None
    hour, minute, second = (int(part or 0) for part in match.group(2, 3, 4))
    if hour > 24 or minute > 59 or second > 59:
        return None
    half = {"noon": "pm", "midnight": "am"}.get(match[5], match[5]) or match[1]
    is_marked = half is not None or hour > 12 or hour == 0
    if half is not None and hour <= 12:
        hour = hour % 12 + _HALVES[half]
    return Clock(hour * 3600 + minute * 60 + second, is_marked)


def read_compound(text: str) -> tuple[Fraction, Unit] | None:
    """Return the sum, in the first unit, of parts whose units convert and grow smaller."""
    bare = TEXT.sub(r" \1 ", text).strip()
    total, first, last, end, count = Fraction(0), None, None, 0, 0
    while end < len(bare):
        part = _PART.match(bare, end)
        unit = None if part is None else _unit(part[2], first, last)
        if part is None or unit is None:
            return None
        first = first or unit
        factor = conversion(unit, first)
        if factor is None or unit.noun or (last is not None and unit.factor >= last.factor):
            return None
        total += Fraction(part[1]) * factor
        last, end, count = unit, part.end(), count + 1
        end += len(bare[end:]) - len(bare[end:].lstrip())
    return (total, first) if count > 1 and first is not None else None


def _unit(name: str, first: Unit | None, last: Unit | None) -> Unit | None:
    """Return a part's unit; minutes after degrees, and a mark after a mark, depend on the first."""
    is_angle = first is not None and first.powers == (("degree", 1),)
    if name == "时" or (name == "点" and first is None):
        return None  # an o'clock
    if is_angle and name in _ARC:
        return Unit((("degree", 1),), _ARC[name])
    if name in ("'", '"', "''"):
        return parse_unit("ft" if name == "'" else "in")
    if name in ("分", "秒") and first is not None and first.powers == (("s", 1),):
        return _MINUTE if name == "分" else parse_unit("second")
    if name == "分" and last is not None and last.powers == (("yuan", 1),):
        return _FEN
    if name == "分":
        return _MINUTE
    return parse_unit(rf"\text{{{name}}}")
