"""Read numbers and quantities as exact rationals: the fast path that decides most pairs.

Everything here is linear in the text's length and free of `eval`; a number's digits are bounded.
"""

from __future__ import annotations

import re
from fractions import Fraction

from r1pipe.verify.reading.naming import is_name
from r1pipe.verify.reading.normalise import plain
from r1pipe.verify.reading.number_words import number_word
from r1pipe.verify.reading.units import conversion, parse_unit
from r1pipe.verify.reading.values import Scalar

MAX_DIGITS = 400
_MAX_EXPONENT = 400

_DIGITS = r"[0-9]"
_GROUPED = rf"{_DIGITS}{{1,3}}(?:,{_DIGITS}{{3}})+|{_DIGITS}{{1,3}}(?: {_DIGITS}{{3}})+"
_DECIMAL = rf"(?:(?:{_GROUPED}|{_DIGITS}+)(?:\.{_DIGITS}*)?|\.{_DIGITS}+)"
_REPEATING = (
    rf"(?:{_DIGITS}+\.{_DIGITS}*(?:\\overline\s*\{{\s*{_DIGITS}+\s*\}}|\\bar\s*\{{?\s*{_DIGITS}+\s*\}}?"
    rf"|\\dot\s*\{{?\s*{_DIGITS}\s*\}}?(?:{_DIGITS}*\\dot\s*\{{?\s*{_DIGITS}\s*\}}?)?|\({_DIGITS}+\)))"
)
_POWER_OF_TEN = (
    rf"(?:\s*(?:\\times|\\cdot|\*|x)\s*10\s*(?:\^|\*\*)\s*(?:\{{\s*([+-]?{_DIGITS}{{1,4}})\s*\}}"
    rf"|\(\s*([+-]?{_DIGITS}{{1,4}})\s*\)|([+-]?{_DIGITS}{{1,4}}))|[eE]([+-]?{_DIGITS}{{1,4}}))"
)
_SIGN = r"[+-]?"
_PART = rf"\s*{_SIGN}\s*{_DECIMAL}\s*"
_FRACTION = (
    rf"\\frac\s*(?:\{{({_PART})\}}|({_DIGITS}))\s*(?:\{{({_PART})\}}|({_DIGITS}))|"
    rf"({_DECIMAL})\s*/\s*({_SIGN}\s*{_DECIMAL})"
    rf"|\{{\s*({_DECIMAL})\s*\}}\s*/\s*\{{\s*({_DECIMAL})\s*\}}"
)
_NUMBER = re.compile(
    rf"\s*({_SIGN})\s*(\\\$|[£€¥]|HK\$|US\$|USD\b|RMB\b|CNY\b|EUR\b)?\s*({_SIGN})\s*(?:"
    rf"(?P<mixed>{_DIGITS}{{1,12}})(?:\s+|\s*(?=\\frac)|\s*\+\s*(?=\\frac))(?P<mixed_fraction>{_FRACTION})"
    rf"|(?P<fraction>{_FRACTION})"
    rf"|(?P<ten>10\s*\^\s*(?:\{{\s*[+-]?{_DIGITS}{{1,4}}\s*\}}|[+-]?{_DIGITS}{{1,4}}))"
    rf"|(?P<repeating>{_REPEATING})"
    rf"|(?P<decimal>{_DECIMAL})(?P<power>{_POWER_OF_TEN})?"
    r")(?P<rest>.*)",
    re.DOTALL,
)
_FRACTION_ONLY = re.compile(_FRACTION)
_POWER_ONLY = re.compile(_POWER_OF_TEN)
_PERCENT = re.compile(
    r"\s*(?:\\?%|percent\b|per cent\b|\\text\s*\{\s*(?:\\?%|percent)\s*\})"
    r"\s*(?:\\text\s*\{)?\s*(?:of .{0,40}|increase|decrease|off|chance|discount|profit|loss)?\s*\}?"
)
_NAME = re.compile(r"\s*(\\?[a-zA-Z]+(?:_\{?\w{1,8}\}?)?(?:\([a-zA-Z]\))?)\s*=\s*(?!=)")
_SCALE = re.compile(
    r"\s*(?:\\text\s*\{)?\s*(hundred|thousand|million|billion|trillion|千|万|亿)(?![a-zA-Z])"
)
_SCALES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "千": 10**3,
    "万": 10**4,
    "亿": 10**8,
}
_ASIDE = re.compile(r"\s*(?:\\text\s*\{)?\s*\(\s*([^()]{1,30}?)\s*\)\s*\}?")
_CHINESE_PERCENT = re.compile(r"\s*百分之\s*(.+)", re.DOTALL)


def parse_quantity(text: str) -> Scalar | None:
    """Return the quantity that `text` as a whole writes, or None where it is anything else."""
    return parse_plain_quantity(plain(text))


def parse_plain_quantity(text: str) -> Scalar | None:
    """As `parse_quantity`, for text that `normalise.plain` already went through."""
    if len(text) > MAX_DIGITS:
        return None
    name = _NAME.match(text)
    if name is not None and not is_name(name.group(1)):
        return None  # xy = 5 is an equation
    if name is not None:
        text = text[name.end() :]
    text = text.removeprefix("a ")
    chinese_percent = _CHINESE_PERCENT.fullmatch(text)
    if chinese_percent is not None:
        text = chinese_percent.group(1) + "%"
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    value = _value(match)
    if value is None:
        return None
    sign = -1 if (match.group(1) == "-") != (match.group(3) == "-") else 1
    label = name.group(1) if name is not None else ""
    return _with_rest(value * sign, match.group(2) or "", match.group("rest"), label)


def _value(match: re.Match[str]) -> Fraction | None:
    if match.group("mixed") is not None:
        part = _fraction(match.group("mixed_fraction"))
        is_proper = part is not None and 0 <= part < 1
        return int(match.group("mixed")) + part if is_proper and part is not None else None
    if match.group("fraction") is not None:
        return _fraction(match.group("fraction"))
    if match.group("repeating") is not None:
        return _repeating(match.group("repeating"))
    if match.group("ten") is not None:
        return _power_of_ten(int(re.sub(r"[^0-9+-]", "", match.group("ten").split("^")[1])))
    value = _decimal(match.group("decimal"))
    if match.group("power") is None:
        return value
    power = _POWER_ONLY.fullmatch(match.group("power"))
    assert power is not None, "the power group matched its own pattern"
    scale = _power_of_ten(int(next(group for group in power.groups() if group)))
    return None if scale is None else value * scale


def _decimal(text: str) -> Fraction:
    return Fraction(re.sub(r"[,\s]", "", text))


def _power_of_ten(exponent: int) -> Fraction | None:
    return Fraction(10) ** exponent if abs(exponent) <= _MAX_EXPONENT else None


def _fraction(text: str) -> Fraction | None:
    match = _FRACTION_ONLY.fullmatch(text.strip())
    assert match is not None, "the fraction group matched its own pattern"
    top, bottom = (_decimal(group) for group in match.groups() if group is not None)
    return top / bottom if bottom else None


def _repeating(text: str) -> Fraction:
    """Return 0.1\\overline{6}, 0.1(6) or 0.\\dot{1}4\\dot{2} exactly."""
    whole, _, rest = text.partition(".")
    fixed = re.match(r"[0-9]*", rest)
    start = fixed.group() if fixed is not None else ""
    cycle = re.sub(r"[^0-9]", "", rest[len(start) :])
    scale = Fraction(1, 10 ** len(start))
    tail = Fraction(int(cycle), 10 ** len(cycle) - 1)
    return int(whole) + Fraction(int(start or "0")) * scale + tail * scale


def _with_rest(value: Fraction, currency: str, rest: str, name: str) -> Scalar | None:
    """Add the percent sign or unit after a number; None if the rest is neither."""
    scale = _SCALE.match(rest)
    if scale is not None and not (
        scale.group(1) in "千" and re.match(r"千[克米瓦卡焦]", rest.strip())
    ):
        value *= _SCALES[scale.group(1)]
        rest = rest[scale.end() :].lstrip("} ")
    if _PERCENT.fullmatch(rest):
        return None if currency else Scalar(value, None, True, name)
    unit = parse_unit(currency[-2:] if currency.endswith("\\$") else currency) if currency else None
    aside = _ASIDE.fullmatch(rest)
    if aside is not None:
        number = number_word(aside[1])
        rest = rf"\text{{ {aside[1]}}}" if number is None else "" if number == value else rest
    if rest.strip(" {}"):
        behind = parse_unit(rest.strip())
        if behind is None or (behind.noun and rest[:1].isascii() and rest[:1].isalpha()):
            return None  # 2ab is a product, 2 apples are apples
        if unit is not None and conversion(unit, behind) != 1 and not behind.noun:
            return None
        unit = unit or behind
    return Scalar(value, unit, False, name)
