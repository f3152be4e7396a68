"""A table of units: which quantities are comparable, and the exact factor between them.

A unit is a product of powers of dimensions with a rational factor to the base unit. Words that are
not in the table (apples, students) are nouns; counting words (Chinese classifiers) go with any
noun.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

_MAX_UNIT_CHARS = 60
_MAX_POWER = 12


@dataclass(frozen=True, slots=True)
class Unit:
    """Dimensions to their powers, a factor to the base units, or a noun the table lacks."""

    powers: tuple[tuple[str, int], ...] = ()
    factor: Fraction = Fraction(1)
    noun: str = ""

    @property
    def is_counter(self) -> bool:
        """True for a counting word, which fits every noun."""
        return self.powers == (("count", 1),)


def _table(spec: Mapping[str, Mapping[str, str]]) -> dict[str, Unit]:
    table: dict[str, Unit] = {}
    for dimension, units in spec.items():
        powers = _powers(dimension)
        for names, factor in units.items():
            for name in names.split():
                table[name.replace("_", " ")] = Unit(powers, Fraction(factor))
    return table


def _powers(dimension: str) -> tuple[tuple[str, int], ...]:
    pairs = (part.partition("^") for part in dimension.split())
    return tuple(sorted((name, int(power or 1)) for name, _, power in pairs))


_SPEC: dict[str, dict[str, str]] = {
    "m": {
        "km kilometer kilometre kilometers kilometres 千米 公里": "1000",
        "m meter metre meters metres 米": "1",
        "dm decimeter decimetre decimeters decimetres 分米": "1/10",
        "cm centimeter centimetre centimeters centimetres 厘米 公分": "1/100",
        "mm millimeter millimetre millimeters millimetres 毫米": "1/1000",
        "\u03bcm um micrometer micrometre micrometers micrometres micron microns 微米": "1/1000000",
        "nm nanometer nanometre nanometers nanometres 纳米": "1/1000000000",
        "in inch inches 英寸": "127/5000",
        "ft foot feet 英尺": "381/1250",
        "yd yard yards 码": "1143/1250",
        "mi mile miles 英里": "201168/125",
        "里": "500",
    },
    "m^2": {
        "ha hectare hectares 公顷": "10000",
        "acre acres 英亩": "316160658/78125",
        "平方千米 平方公里": "1000000",
        "平方米 平米": "1",
        "平方分米": "1/100",
        "平方厘米": "1/10000",
        "平方毫米": "1/1000000",
        "亩": "2000/3",
        "sqft": "145161/1562500",
    },
    "m^3": {
        "L l liter litre liters litres 升": "1/1000",
        "mL ml milliliter millilitre milliliters millilitres 毫升": "1/1000000",
        "立方米": "1",
        "立方分米": "1/1000",
        "立方厘米 cc": "1/1000000",
        "gal gallon gallons": "473176473/125000000000",
        "qt quart quarts": "473176473/500000000000",
        "pt pint pints": "473176473/1000000000000",
    },
    "s": {
        "s sec secs second seconds 秒 秒钟": "1",
        "ms millisecond milliseconds 毫秒": "1/1000",
        "min mins minute minutes 分钟": "60",
        "h hr hrs hour hours 小时 个小时 时": "3600",
        "d day days 天 日": "86400",
        "wk week weeks 周 星期 个星期": "604800",
    },
    "year": {
        "month months 月 个月": "1/12",
        "yr yrs year years years_old year_old years_of_age 年 岁": "1",
        "decade decades": "10",
        "century centuries 世纪": "100",
    },
    "kg": {
        "t ton tons tonne tonnes 吨": "1000",
        "kg kilogram kilograms kilogramme kilogrammes 千克 公斤": "1",
        "g gram grams gm 克": "1/1000",
        "mg milligram milligrams 毫克": "1/1000000",
        "lb lbs pound pounds 磅": "45359237/100000000",
        "oz ounce ounces": "45359237/1600000000",
        "斤": "1/2",
        "两": "1/20",
    },
    "kg m s^-2": {"N newton newtons 牛 牛顿": "1", "kN": "1000", "dyn dyne dynes": "1/100000"},
    "kg m^2 s^-2": {
        "J joule joules 焦 焦耳": "1",
        "kJ kilojoule kilojoules 千焦": "1000",
        "MJ": "1000000",
        "erg ergs": "1/10000000",
        "kWh": "3600000",
        "cal calorie calories 卡": "523/125",
        "kcal kilocalorie kilocalories 千卡": "4184",
    },
    "kg m^2 s^-3": {"W watt watts 瓦": "1", "kW kilowatt kilowatts 千瓦": "1000", "MW": "1000000"},
    "kg m^-1 s^-2": {
        "Pa pascal pascals 帕": "1",
        "kPa": "1000",
        "MPa": "1000000",
        "atm": "101325",
        "bar": "100000",
    },
    "s^-1": {"Hz hertz 赫兹": "1", "kHz": "1000", "MHz": "1000000", "GHz": "1000000000"},
    "A": {"A amp amps ampere amperes 安 安培": "1", "mA": "1/1000"},
    "V": {"V volt volts 伏 伏特": "1", "mV": "1/1000", "kV": "1000"},
    "ohm": {"ohm ohms \u03a9 \\Omega 欧 欧姆": "1"},
    "C": {"C coulomb coulombs 库仑": "1"},
    "K": {"K kelvin kelvins 开尔文": "1"},
    "mol m^-3": {"M molar": "1000"},
    "mol": {"mol mole moles 摩尔": "1", "mmol": "1/1000"},
    "celsius": {"^\\circC \u2103 摄氏度 degrees_celsius degree_celsius celsius": "1"},
    "fahrenheit": {"^\\circF 华氏度 degrees_fahrenheit degree_fahrenheit fahrenheit": "1"},
    "degree": {"^\\circ deg degree degrees 度": "1"},
    "rad": {"rad radian radians 弧度": "1"},
    "bit": {"bit bits": "1", "byte bytes B 字节": "8", "KB kB": "8000", "MB": "8000000"},
    "dollar": {
        "\\$ dollar dollars usd USD 美元 bucks": "1",
        "cent cents penny pennies \u00a2 美分": "1/100",
        "million_dollars": "1000000",
    },
    "pound": {"\u00a3 gbp GBP 英镑": "1", "pence": "1/100"},
    "euro": {"\u20ac euro euros eur EUR 欧元": "1"},
    "yuan": {
        "\u00a5 元 块 块钱 元钱 yuan rmb RMB CNY cny 人民币": "1",
        "角 毛": "1/10",
        "万元": "10000",
        "亿元": "100000000",
    },
    "yen": {"yen jpy JPY 日元 円": "1"},
    "rupee": {"\u20b9 rupee rupees": "1"},
    "m s^-1": {"mph": "1397/3125", "kmh kph": "5/18"},
    "count": {
        "个 只 本 张 支 条 件 名 位 人 颗 棵 朵 辆 双 盒 箱 袋 瓶 杯": "1",
        "块儿 头 匹 根 把 台 套 节 种 次 组 排 页 间 层 座 所 道 题 首": "1",
        "面 片 粒 盆 艘 架 枚 份 筐 包 堆 串 桶 对 段 步 倍 户 家 班": "1",
        "句": "1",
        "units unit times pieces piece items item": "1",
    },
}
_UNITS = _table(_SPEC)
_SQUARE_WORDS = {"square": 2, "sq": 2, "sq.": 2, "cubic": 3, "cu": 3, "平方": 2, "立方": 3}
_POWER_WORDS = {"squared": 2, "cubed": 3}
_TEXT_COMMAND = re.compile(
    r"\\(?:text|mathrm|textrm|textbf|textit|operatorname|rm|mbox|hbox|textnormal)(?![a-zA-Z])\s*\*?"
)
_POWER = re.compile(r"\^\s*\{?\s*([+-]?[0-9]{1,2})\s*\}?")
_QUOTIENT = re.compile(
    r"\\[dt]?frac\s*\{\s*\{?([^{}]{1,20})\}?\s*\}\s*\{\s*\{?([^{}]{1,20})\}?((?:\s*\^[^{}]{1,3})?)\s*\}"
)
_BEHIND = re.compile(
    r"\s+(?:each|long|wide|tall|high|deep|away|apart|total|in total|altogether)\s*$"
)
_JOIN = re.compile(r"\\(?:cdot|times)(?![a-zA-Z])|[*\u00b7.](?=\s*[a-zA-Z])")
_NO_NOUN = re.compile(
    r"\b(?:or|and|more|less|fewer|than|least|most|about|approximately|roughly|not|maybe|perhaps|if|when"
    r"|up|to|over|under|between|pi|sqrt|sin|cos|tan|cot|sec|csc|log|ln|exp|inf|infinity|mod|gcd|lcm"
    r"|max|min|abs|else|is|are|for|in range)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W\d_]+(?:[-'][^\W\d_]+)*")


@lru_cache(maxsize=4096)
def parse_unit(text: str) -> Unit | None:
    """Return the unit that `text` names, or None if it is no unit (a variable, an expression).

    A single letter is a unit only inside `\\text{}` or `\\mathrm{}`; elsewhere it is a variable.

    >>> parse_unit("km/h").factor
    Fraction(5, 18)
    """
    if not text or len(text) > _MAX_UNIT_CHARS:
        return None
    is_marked = _TEXT_COMMAND.search(text) is not None
    bare = _TEXT_COMMAND.sub(" ", text).replace("{\\circ}", "\\circ")
    bare = _BEHIND.sub("", _JOIN.sub(" ", _QUOTIENT.sub(r"\1/\2\3", bare)))
    if re.search(r"[=<>()\[\]|&\\](?!circ|\$|Omega)", bare):
        return None
    bare = re.sub(r"\^\\circ\s*", r"^\\circ", bare)
    bare = _POWER.sub(r"^\1 ", bare).replace("{", " ").replace("}", " ")
    bare = re.sub(r" (?=\^[+-]?\d)", "", re.sub(r"\s+", " ", bare)).strip(" .")
    if not bare or (len(bare) == 1 and bare.isascii() and bare.isalpha() and not is_marked):
        return None
    return _known(bare) or _product(bare) or _noun(bare)


def _known(name: str) -> Unit | None:
    if name in _UNITS:
        return _UNITS[name]
    lower = name.lower()
    if len(lower) > 2 and lower in _UNITS:
        return _UNITS[lower]
    return None


def _product(text: str) -> Unit | None:
    """Parse `kg m/s^2`, `miles per hour`, `square feet`; None where a factor is unknown."""
    text = re.sub(r"\bper\b|每", "/", text)
    pieces = text.split("/")
    powers: dict[str, int] = {}
    factor = Fraction(1)
    for index, piece in enumerate(pieces):
        factors = _factors(piece)
        if factors is None:
            return None
        for unit, power in factors:
            signed = -power if index else power
            factor *= unit.factor**signed
            for name, exponent in unit.powers:
                powers[name] = powers.get(name, 0) + exponent * signed
    kept = tuple(sorted((name, power) for name, power in powers.items() if power))
    return Unit(kept, factor) if kept else None


def _factors(piece: str) -> list[tuple[Unit, int]] | None:
    """Split `square cm` or `m^{2} s^{-1}` into units with powers."""
    words = _POWER.sub(r"^\1 ", piece).split()
    factors: list[tuple[Unit, int]] = []
    ahead = 1
    for word in words:
        name, power = _split_power(word)
        if name.lower() in _SQUARE_WORDS:
            ahead = _SQUARE_WORDS[name.lower()]
            continue
        if name.lower() in _POWER_WORDS and factors:
            factors[-1] = (factors[-1][0], factors[-1][1] * _POWER_WORDS[name.lower()])
            continue
        unit = _known(name)
        exponent = ahead * int(power or 1)
        if unit is None or abs(exponent) > _MAX_POWER:
            return None
        factors.append((unit, exponent))
        ahead = 1
    return factors or None


def _split_power(word: str) -> tuple[str, str]:
    """Split `cm^-2` into name and exponent; what has no integer exponent is all name."""
    name, _, power = word.rpartition("^")
    return (name, power) if name and re.fullmatch(r"[+-]?[0-9]{1,2}", power) else (word, "")


def _noun(text: str) -> Unit | None:
    """Take words that the table lacks as a noun; its last word, in the singular, is its head.

    Words of mathematics and of hedging are none, and nor are two letters: those are variables.
    """
    if _NO_NOUN.search(text) or "分之" in text or re.fullmatch("[a-zA-Z]{2}", text):
        return None
    if not all(_WORD.fullmatch(word) for word in text.split()):
        return None
    head = text.split()[-1].lower()
    if len(head) == 1 and head.isascii():
        return None
    return Unit(noun=_singular(head))


def _singular(word: str) -> str:
    if word in ("people", "persons", "person"):
        return "person"
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def conversion(unit: Unit, other: Unit) -> Fraction | None:
    """Return the factor from `unit` to `other`, or None where the two conflict."""
    if unit.noun or other.noun:
        fits = unit.noun == other.noun or unit.is_counter or other.is_counter
        return Fraction(1) if fits else None
    if unit.is_counter and other.is_counter:
        return Fraction(1)
    return unit.factor / other.factor if unit.powers == other.powers else None
