"""Rules on percents, money, units, angles, ratios, bases, choices and words.

As in `answer_rules.py`. `docs/verifier.md` decides what may be missing beside a number.
"""

from __future__ import annotations

import re
from fractions import Fraction
from random import Random

from answer_rules.keys import UNITS
from answer_rules.rule import Rule, decimal_of

_CONVERSIONS = {
    "mm": ("cm", "0.1"), "cm": ("mm", "10"), "m": ("cm", "100"), "km": ("m", "1000"),
    "g": ("kg", "0.001"), "kg": ("g", "1000"), "mg": ("g", "0.001"), "h": ("min", "60"),
    "min": ("s", "60"), "ft": ("in", "12"),
}  # fmt: skip
_DIMENSION = {
    **dict.fromkeys(("mm", "cm", "m", "km", "ft", "in"), "kg"),
    **dict.fromkeys(("g", "kg", "mg", "lb"), "s"),
    **dict.fromkeys(("s", "h", "min"), "m"),
}
"""A unit of another quantity, for each."""
_POOL = ("Tuesday", "east", "circle", "increasing", "Martha", "green", "hexagon", "never")


def number_of(core: str) -> str:
    """Return the number that a quantity starts with."""
    found = re.match(r"\\?\$? ?(-? ?\d[\d,]*(?:\.\d+)?)", core)
    assert found is not None, "a quantity was read as one before"
    return found[1].replace(" ", "")


def off(number: str, rng: Random) -> str:
    """Return another number of the same form."""
    digit = (int(number[-1]) + rng.choice((1, 9))) % 10
    return number[:-1] + str(digit)


# percents


def spaced_percent(core: str, rng: Random) -> str | None:
    r"""50\,\% and 50%."""
    return rng.choice((r"%s\,\%%", "%s%%", r"%s \%%")) % number_of(core)


def percent_in_words(core: str, rng: Random) -> str | None:
    """50 percent."""
    return rng.choice(("%s percent", r"%s \text{ percent}")) % number_of(core)


def percent_as_decimal(core: str, rng: Random) -> str | None:
    """50% is 0.5."""
    return decimal_of(Fraction(number_of(core)) / 100)


def percent_as_fraction(core: str, rng: Random) -> str | None:
    r"""50% is \frac{50}{100}."""
    number = number_of(core)
    return rf"\frac{{{number}}}{{100}}" if number.isdigit() else None


def percent_off(core: str, rng: Random) -> str | None:
    """Another number of percent."""
    return rf"{off(number_of(core), rng)}\%"


def percent_of_percent(core: str, rng: Random) -> str | None:
    """0.5% is not 50%."""
    text = decimal_of(Fraction(number_of(core)) / 100)
    return rf"{text}\%" if text else None


def percent_tenfold(core: str, rng: Random) -> str | None:
    """500% is not 50%."""
    value = Fraction(number_of(core)) * 10
    return rf"{value}\%" if value.denominator == 1 and value else None


# money


def money_without_sign(core: str, rng: Random) -> str | None:
    """The question says which currency."""
    return number_of(core)


def money_in_words(core: str, rng: Random) -> str | None:
    """36 dollars."""
    return rng.choice((r"%s \text{ dollars}", "%s dollars")) % number_of(core)


def money_with_cents(core: str, rng: Random) -> str | None:
    r"""\$36 is \$36.00."""
    number = number_of(core)
    return rf"\${number}.00" if "." not in number else None


def money_off(core: str, rng: Random) -> str | None:
    """Another amount."""
    return rf"\${off(number_of(core), rng)}"


def other_currency(core: str, rng: Random) -> str | None:
    """Euros are no dollars."""
    return rng.choice(("€%s", r"%s \text{ euros}")) % number_of(core)


def cents_for_dollars(core: str, rng: Random) -> str | None:
    """36 cents are not 36 dollars."""
    number = number_of(core)
    return rf"{number} \text{{ cents}}" if number.strip("0.") else None


# units


def _unit(core: str) -> str:
    found = re.search(r"\{ ?([A-Za-z]+) ?\}", core)
    return found[1] if found else ""


def unit_dress(core: str, rng: Random) -> str | None:
    r"""\text and \mathrm, with a space or another one."""
    dress = (r"%s\text{ %s}", r"%s\,\mathrm{%s}", r"%s~\text{%s}", r"%s \mathrm{~%s}")
    return rng.choice(dress) % (number_of(core), _unit(core))


def unit_in_words(core: str, rng: Random) -> str | None:
    """The English name of the unit."""
    name = UNITS[_unit(core)]
    return rng.choice((r"%s \text{ %s}", "%s %s")) % (number_of(core), name)


def unit_left_out(core: str, rng: Random) -> str | None:
    """The question says in which unit."""
    return number_of(core)


def converted(core: str, rng: Random) -> str | None:
    """The same quantity in another unit."""
    unit = _unit(core)
    if unit not in _CONVERSIONS:
        return None
    other, factor = _CONVERSIONS[unit]
    value = Fraction(number_of(core)) * Fraction(factor)
    text = str(value) if value.denominator == 1 else decimal_of(value)
    return rf"{text} \text{{ {other}}}" if text else None


def unit_number_off(core: str, rng: Random) -> str | None:
    """Another number of the unit."""
    return rf"{off(number_of(core), rng)} \text{{ {_unit(core)}}}"


def other_quantity(core: str, rng: Random) -> str | None:
    """A unit of another quantity."""
    unit = _unit(core)
    return rf"{number_of(core)} \text{{ {_DIMENSION[unit]}}}" if unit in _DIMENSION else None


def prefix_off(core: str, rng: Random) -> str | None:
    """The same number of a larger or smaller unit, unless it is 0."""
    unit = _unit(core)
    if unit not in _CONVERSIONS or not number_of(core).strip("0.-"):
        return None
    return rf"{number_of(core)} \text{{ {_CONVERSIONS[unit][0]}}}"


# counts with their noun


def _noun(core: str) -> str:
    return core.partition("(")[2].rstrip(")")


def count_alone(core: str, rng: Random) -> str | None:
    """The question says of what."""
    return number_of(core)


def count_with_noun(core: str, rng: Random) -> str | None:
    """9 apples."""
    return rng.choice((r"%s \text{ %s}", "%s %s")) % (number_of(core), _noun(core))


def count_off(core: str, rng: Random) -> str | None:
    """Another number of them."""
    return rng.choice((r"%s \text{ %s}", "%s %s")) % (off(number_of(core), rng), _noun(core))


def count_off_alone(core: str, rng: Random) -> str | None:
    """Another number."""
    return off(number_of(core), rng)


# angles, ratios, bases


def degree_dress(core: str, rng: Random) -> str | None:
    r"""^\circ, its character, and the word."""
    dress = (r"%s^\circ", r"%s^{\circ}", "%s°", r"%s \text{ degrees}", "%s degrees", "%s")
    return rng.choice(dress) % number_of(core)


def degree_off(core: str, rng: Random) -> str | None:
    """Another angle."""
    return rf"{off(number_of(core), rng)}^\circ"


def complement(core: str, rng: Random) -> str | None:
    """The rest to 90 or 180 degrees, where it is another angle."""
    value, whole = Fraction(number_of(core)), rng.choice((90, 180))
    rest = whole - value
    return rf"{rest}^\circ" if rest.denominator == 1 and rest != value else None


def ratio_spaced(core: str, rng: Random) -> str | None:
    """Spaces around the colon."""
    return rng.choice((" : ", ":", r"\,:\,")).join(re.findall(r"\d+", core))


def ratio_swapped(core: str, rng: Random) -> str | None:
    """The terms changed over, where they differ."""
    left, right = re.findall(r"\d+", core)
    return f"{right}:{left}" if int(left) != int(right) else None


def ratio_off(core: str, rng: Random) -> str | None:
    """Another first term."""
    left, right = re.findall(r"\d+", core)
    return f"{int(left) + 1}:{right}" if int(right) else None


def base_dress(core: str, rng: Random) -> str | None:
    """The base with braces or brackets."""
    digits, base = re.findall(r"\d+", core)
    return rng.choice(("%s_{%s}", "%s_%s", "(%s)_{%s}")) % (digits, base)


def base_off(core: str, rng: Random) -> str | None:
    """The same digits, at least two, to another base, unless they are 0."""
    digits, base = re.findall(r"\d+", core)
    return f"{digits}_{{{int(base) + 1}}}" if digits[:-1].strip("0") else None


def base_digit_off(core: str, rng: Random) -> str | None:
    """Another last digit."""
    digits, base = re.findall(r"\d+", core)
    return f"{digits[:-1]}{(int(digits[-1]) + 1) % int(base)}_{{{base}}}"


# choices


def letter_dress(core: str, rng: Random) -> str | None:
    """The letter as papers print it."""
    dress = ("(%s)", "%s.", r"\text{%s}", r"\textbf{(%s)}", "%s)", r"\mathrm{%s}", r"\text{(%s)}")
    return rng.choice(dress) % core.strip("()")


def letter_with_text(core: str, rng: Random) -> str | None:
    """The letter, and after it the text of the choice."""
    texts = ("12", r"\frac{3}{4}", "x = 2", "30^\\circ")
    dress = ("(%s) %s", r"\textbf{(%s)}\ %s", "%s. %s", r"\text{(%s)}\ %s")
    return rng.choice(dress) % (core.strip("()"), rng.choice(texts))


def option_word(core: str, rng: Random) -> str | None:
    """Option B."""
    return rng.choice(("Option %s", r"\text{Option %s}", "选项%s")) % core.strip("()")


def other_letter(core: str, rng: Random) -> str | None:
    """Another letter, in the same dress."""
    letter = rng.choice([c for c in "ABCDE" if c != core.strip("()")])
    return (letter_dress if rng.random() < 0.5 else letter_with_text)(letter, rng)


def two_letters(core: str, rng: Random) -> str | None:
    """Two letters where there is one."""
    letter = core.strip("()")
    other = rng.choice([c for c in "ABCDE" if c != letter])
    return rng.choice(
        (f"{letter}, {other}", f"{letter} and {other}", "".join(sorted(letter + other)))
    )


# words


def bare(core: str) -> str:
    """Return words without a text command."""
    return re.sub(r"\\text ?\{ ?([^{}]*?) ?\}", r"\1", core).strip()


def text_command(core: str, rng: Random) -> str | None:
    r"""\text, \textbf, \mathrm."""
    return rng.choice((r"\text{%s}", r"\textbf{%s}", r"\text{ %s }", "%s")) % bare(core)


def other_case(core: str, rng: Random) -> str | None:
    """Capitals do not matter in these words."""
    return rng.choice((bare(core).lower(), bare(core).title(), bare(core).upper()))


def full_stop(core: str, rng: Random) -> str | None:
    """A full stop behind it, or quotation marks around it."""
    return rng.choice(("%s.", r"\text{%s.}", '"%s"')) % bare(core)


def not_it(core: str, rng: Random) -> str | None:
    """Not that."""
    return rng.choice((r"\text{not %s}", "not %s")) % bare(core)


def another_word(core: str, rng: Random) -> str | None:
    """A word that is no synonym."""
    word = rng.choice([w for w in _POOL if w.lower() not in core.lower()])
    return rng.choice((r"\text{%s}", "%s")) % word


def anagram(core: str, rng: Random) -> str | None:
    """Its letters in another order."""
    letters = list(bare(core))
    rng.shuffle(letters)
    text = "".join(letters).strip()
    is_other = " " not in text and sorted(text) == sorted(bare(core)) and text != bare(core)
    return text if is_other else None


def letter_missing(core: str, rng: Random) -> str | None:
    """A letter less, of words of five and more."""
    text = bare(core)
    return text[:1] + text[2:] if len(text) >= 5 and text[1] != text[2] else None


KEEPS: dict[str, tuple[Rule, ...]] = {
    "percent": (spaced_percent, percent_in_words, percent_as_decimal, percent_as_fraction),
    "money": (money_without_sign, money_in_words, money_with_cents),
    "unit": (unit_dress, unit_in_words, unit_left_out, converted),
    "counted": (count_alone, count_with_noun),
    "degree": (degree_dress,),
    "ratio": (ratio_spaced,),
    "base": (base_dress,),
    "choice": (letter_dress, letter_with_text, option_word),
    "text": (text_command, other_case, full_stop),
}
CHANGES: dict[str, tuple[Rule, ...]] = {
    "percent": (percent_off, percent_of_percent, percent_tenfold),
    "money": (money_off, other_currency, cents_for_dollars),
    "unit": (unit_number_off, other_quantity, prefix_off),
    "counted": (count_off, count_off_alone),
    "degree": (degree_off, complement),
    "ratio": (ratio_swapped, ratio_off),
    "base": (base_off, base_digit_off),
    "choice": (other_letter, two_letters),
    "text": (not_it, another_word, anagram, letter_missing),
}
