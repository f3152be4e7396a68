"""Rules on decimals, fractions and mixed numbers."""

from __future__ import annotations

import re
from fractions import Fraction
from random import Random

from answer_rules.rule import Rule, decimal_of


def parts(core: str) -> tuple[int, int]:
    """Return numerator, with the sign, and denominator as written."""
    digits = re.findall(r"\d+", core)
    if len(digits) == 1:  # \frac12
        digits = list(digits[0])
    sign = -1 if core.count("-") == 1 else 1
    return sign * int(digits[0]), int(digits[1])


def more_zeros(core: str, rng: Random) -> str | None:
    """Zeros at the end of a decimal change nothing."""
    return core + "0" * rng.choice((1, 2))


def no_zeros(core: str, rng: Random) -> str | None:
    """Nor does leaving them out, and the point with them."""
    short = core.rstrip("0").rstrip(".")
    return short if short != core else None


def no_leading_zero(core: str, rng: Random) -> str | None:
    """.5 is 0.5."""
    return core.replace("0.", ".", 1) if re.match(r"-? ?0\.", core) else None


def as_fraction(core: str, rng: Random) -> str | None:
    """A decimal is the fraction of its digits by a power of ten, reduced or not."""
    value = Fraction(core.replace(" ", ""))
    scale = 10 ** len(core.partition(".")[2])
    if rng.random() < 0.5 or value.denominator == 1:
        top, bottom = value * scale, scale
    else:
        top, bottom = Fraction(value.numerator), value.denominator
    sign = "-" if value < 0 else ""
    return rf"{sign}\frac{{{abs(int(top))}}}{{{bottom}}}"


def as_percent(core: str, rng: Random) -> str | None:
    """x is 100 x percent."""
    value = Fraction(core.replace(" ", "")) * 100
    text = str(value) if value.denominator == 1 else decimal_of(value)
    return rf"{text}\%" if 0 < value <= 100 and text else None


def exponent_form(core: str, rng: Random) -> str | None:
    """The digits times a power of ten."""
    whole_part, _, places = core.replace(" ", "").partition(".")
    digits = (whole_part + places).lstrip("-").lstrip("0")
    if not digits:
        return None
    return rf"{'-' if core[0] == '-' else ''}{digits} \times 10^{{-{len(places)}}}"


def last_digit_off(core: str, rng: Random) -> str | None:
    """Another last digit."""
    digit = (int(core[-1]) + rng.choice((1, 9))) % 10
    return core[:-1] + str(digit)


def moved_point(core: str, rng: Random) -> str | None:
    """Ten times, or a tenth, unless it is 0."""
    value = Fraction(core.replace(" ", "")) * rng.choice((Fraction(10), Fraction(1, 10)))
    return (str(value) if value.denominator == 1 else decimal_of(value)) if value else None


def rounded(core: str, rng: Random) -> str | None:
    """Fewer digits, where those left out are not all 0: the key asks for this many."""
    whole_part, _, places = core.partition(".")
    kept = places[: rng.randrange(len(places))]
    if not places[len(kept) :].strip("0"):
        return None
    return f"{whole_part}.{kept}".rstrip(".")


def decimal_sign(core: str, rng: Random) -> str | None:
    """The other sign of what is not 0."""
    if not core.strip("-0. "):
        return None
    return core.lstrip("- ") if core.startswith("-") else f"-{core}"


def one_more_digit(core: str, rng: Random) -> str | None:
    """A digit from 1 to 9 behind the last one."""
    return core + str(rng.randrange(1, 10))


def _fraction(top: int, bottom: int, command: str = "frac") -> str:
    return rf"{'-' if top < 0 else ''}\{command}{{{abs(top)}}}{{{bottom}}}"


def display_fraction(core: str, rng: Random) -> str | None:
    r"""\dfrac and \tfrac typeset the same fraction."""
    return _fraction(*parts(core), rng.choice(("dfrac", "tfrac", "cfrac")[:2]))


def slashed(core: str, rng: Random) -> str | None:
    """a/b in a line."""
    top, bottom = parts(core)
    return rng.choice((f"{top}/{bottom}", f"{top} / {bottom}", rf"{top} \div {bottom}"))


def braceless(core: str, rng: Random) -> str | None:
    r"""\frac takes one digit each without braces."""
    top, bottom = parts(core)
    is_short = 0 < abs(top) < 10 and bottom < 10
    return (
        rf"{'-' if top < 0 else ''}\frac{rng.choice(('', ' '))}{abs(top)}{bottom}"
        if is_short
        else None
    )


def expanded_fraction(core: str, rng: Random) -> str | None:
    """Numerator and denominator times the same factor."""
    k = rng.choice((2, 3, 4, 10))
    top, bottom = parts(core)
    return _fraction(k * top, k * bottom)


def terminating(core: str, rng: Random) -> str | None:
    """The decimal, where it ends."""
    return decimal_of(Fraction(*parts(core)))


def mixed_number(core: str, rng: Random) -> str | None:
    """The whole part and the rest of an improper positive fraction."""
    top, bottom = parts(core)
    if top <= bottom or top % bottom == 0:
        return None
    return rf"{top // bottom}{rng.choice(('', ' ', ' + '))}\frac{{{top % bottom}}}{{{bottom}}}"


def sign_inside(core: str, rng: Random) -> str | None:
    """The minus sign in the numerator."""
    top, bottom = parts(core)
    return rf"\frac{{-{-top}}}{{{bottom}}}" if top < 0 else None


def inverse_times(core: str, rng: Random) -> str | None:
    """a/b as a times 1/b."""
    top, bottom = parts(core)
    return rf"{top} \cdot \frac{{1}}{{{bottom}}}" if top > 1 else None


def inverted(core: str, rng: Random) -> str | None:
    """b/a is not a/b unless they are equal up to the sign."""
    top, bottom = parts(core)
    return (
        _fraction(bottom if top > 0 else -bottom, abs(top)) if top and abs(top) != bottom else None
    )


def numerator_off(core: str, rng: Random) -> str | None:
    """Another numerator."""
    top, bottom = parts(core)
    return _fraction(top + rng.choice((1, -1, 2)), bottom)


def denominator_off(core: str, rng: Random) -> str | None:
    """Another denominator, where the numerator is not 0."""
    top, bottom = parts(core)
    return _fraction(top, bottom + rng.choice((1, 2))) if top else None


def fraction_sign(core: str, rng: Random) -> str | None:
    """The other sign of what is not 0."""
    top, bottom = parts(core)
    return _fraction(-top, bottom) if top else None


def rounded_fraction(core: str, rng: Random) -> str | None:
    """A decimal that is cut off is not the fraction, where the decimal does not end."""
    value = Fraction(*parts(core))
    if decimal_of(value) is not None:
        return None
    return f"{float(value):.{rng.choice((2, 3, 6))}f}"


def top_alone(core: str, rng: Random) -> str | None:
    """The numerator alone, where the denominator is not 1."""
    top, bottom = parts(core)
    return str(top) if top and bottom != 1 else None


def mixed_parts(core: str) -> tuple[int, int, int]:
    """Return whole part, numerator, denominator."""
    digits = re.findall(r"\d+", core)
    if len(digits) == 2:
        digits = [digits[0], *digits[1]]
    return int(digits[0]), int(digits[1]), int(digits[2])


def improper(core: str, rng: Random) -> str | None:
    """One fraction for whole part and rest."""
    n, top, bottom = mixed_parts(core)
    return rng.choice((r"\frac{%d}{%d}", r"\dfrac{%d}{%d}", "%d/%d")) % (n * bottom + top, bottom)


def spaced_mixed(core: str, rng: Random) -> str | None:
    """The same, spaced as people write it."""
    n, top, bottom = mixed_parts(core)
    return rng.choice((rf"{n} \frac{{{top}}}{{{bottom}}}", rf"{n}\dfrac{{{top}}}{{{bottom}}}"))


def mixed_decimal(core: str, rng: Random) -> str | None:
    """The decimal, where it ends."""
    n, top, bottom = mixed_parts(core)
    return decimal_of(n + Fraction(top, bottom))


def whole_off(core: str, rng: Random) -> str | None:
    """Another whole part."""
    n, top, bottom = mixed_parts(core)
    return rf"{n + 1}\frac{{{top}}}{{{bottom}}}"


def multiplied(core: str, rng: Random) -> str | None:
    """Whole part times fraction: another value for every proper fraction but n = n f / (f - 1)."""
    n, top, bottom = mixed_parts(core)
    return (
        _fraction(n * top, bottom)
        if n * Fraction(top, bottom) != n + Fraction(top, bottom)
        else None
    )


KEEPS: dict[str, tuple[Rule, ...]] = {
    "decimal": (more_zeros, no_zeros, no_leading_zero, as_fraction, as_percent, exponent_form),
    "fraction": (
        *(display_fraction, slashed, braceless, expanded_fraction, terminating, mixed_number),
        *(sign_inside, inverse_times),
    ),
    "mixed": (improper, spaced_mixed, mixed_decimal),
}
CHANGES: dict[str, tuple[Rule, ...]] = {
    "decimal": (last_digit_off, moved_point, rounded, decimal_sign, one_more_digit),
    "fraction": (
        *(inverted, numerator_off, denominator_off, fraction_sign, rounded_fraction, top_alone),
    ),
    "mixed": (whole_off, multiplied),
}
