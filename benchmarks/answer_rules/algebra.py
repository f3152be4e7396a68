"""Rules on roots, multiples of pi, constants, algebra, equations, complex numbers, scientific form.

As in `answer_rules.py`; nearly all of these are confirmed by the second reading.
"""

from __future__ import annotations

import re
from random import Random

import sympy as sp

from answer_rules.keys import both
from answer_rules.rule import Rule
from answer_rules.values import value_of

_FUNCTION = re.compile(r"\\(?:sin|cos|tan|ln|log|arctan|arcsin|exp)")


def terms(core: str) -> list[str]:
    """Return the terms of a sum, signs included, cut outside all brackets."""
    found, depth, start = [], 0, 0
    for index, char in enumerate(core):
        depth += (char in "([{") - (char in ")]}")
        is_sign = char in "+-" and depth == 0 and core[:index].strip()
        if (
            is_sign
            and core[:index].rstrip()[-1] not in "^_*/+-("
            and not re.search(r"\\(?:cdot|times|div|pm) ?$", core[:index])
        ):
            found.append(core[start:index].strip())
            start = index
    return [*found, core[start:].strip()]


def joined(pieces: list[str]) -> str:
    """Write a sum of signed terms."""
    signed = [p if p[0] in "+-" else f"+ {p}" for p in pieces]
    text = " ".join(f"{p[0]} {p[1:].strip()}" for p in signed)
    return (
        text[2:]
        if text.startswith("+ ")
        else text.replace("- ", "-", 1)
        if text[0] == "-"
        else text
    )


def is_plain(core: str) -> bool:
    """True where no two readers differ on what a slash or a function takes."""
    return "/" not in core and not _FUNCTION.search(core)


def in_brackets(core: str, rng: Random) -> str | None:
    """Brackets around a whole expression change nothing."""
    return rng.choice((r"\left(%s\right)", "(%s)", "{%s}")) % core


def reordered(core: str, rng: Random) -> str | None:
    """A sum in another order."""
    pieces = terms(core)
    return joined([*pieces[1:], pieces[0]]) if len(pieces) > 1 else None


def over_itself(core: str, rng: Random) -> str | None:
    """Twice an expression over two."""
    return rf"\frac{{2({core})}}{{2}}" if len(core) < 60 else None


def zero_added(core: str, rng: Random) -> str | None:
    """A number added and taken away again."""
    return f"{core} + 3 - 3" if not _FUNCTION.search(core) else None


def tight(core: str, rng: Random) -> str | None:
    """Without spaces, but for those behind a command."""
    return re.sub(r"(?<=[^a-zA-Z]) +| +(?=[^a-zA-Z])", "", core)


def display(core: str, rng: Random) -> str | None:
    r"""\dfrac for \frac, \left( for (: typesetting only."""
    text = core.replace(r"\frac", r"\dfrac").replace("(", r"\left(").replace(")", r"\right)")
    return text if text != core else None


def unicode_signs(core: str, rng: Random) -> str | None:
    """The characters for pi, a root of one number, and minus."""
    text = re.sub(r"\\sqrt ?\{ ?(\d+) ?\}", "√\\1", core).replace(r"\pi", "π")
    if re.search(r"√\d+ ?[a-zA-Zπ\d\\(]", text):
        return None
    return text.replace("-", "\u2212") if text != core else None


def root_with_factor_inside(core: str, rng: Random) -> str | None:
    r"""a\sqrt{b} is \sqrt{a^2 b} for positive a."""
    match = re.fullmatch(r"(\d{1,3}) ?\\sqrt ?\{ ?(\d+) ?\}", core)
    return rf"\sqrt{{{int(match[1]) ** 2 * int(match[2])}}}" if match else None


def dotted_coefficient(core: str, rng: Random) -> str | None:
    r"""A dot between a number and what it multiplies."""
    return re.sub(r"(?<![\d^_{])(\d+) ?(\\sqrt|\\pi|[a-z](?![a-z]))", r"\1 \\cdot \2", core)


def half_power(core: str, rng: Random) -> str | None:
    r"""\sqrt{b} is b^{1/2}, for a number b."""
    text = re.sub(r"\\sqrt ?\{ ?(\d+) ?\}", r"(\1)^{1/2}", core)
    return text if text != core else None


def factor_before_fraction(core: str, rng: Random) -> str | None:
    r"""\frac{a}{b} is \frac{1}{b} a."""
    match = re.fullmatch(r"(-?) ?\\frac ?\{([^{}]*(?:\{[^{}]*\})?[^{}]*)\} ?\{ ?(\d+) ?\}", core)
    if not match or len(terms(match[2])) > 1:
        return None
    return rf"{match[1]}\frac{{1}}{{{match[3]}}} \cdot {match[2]}" if match[2][0] != "-" else None


def fraction_in_line(core: str, rng: Random) -> str | None:
    r"""\frac{a}{b} in a line, with brackets around sums."""
    match = re.fullmatch(r"(-?) ?\\frac ?\{([^{}]*(?:\{[^{}]*\})?[^{}]*)\} ?\{ ?(\d+) ?\}", core)
    if not match:
        return None
    top = f"({match[2]})" if len(terms(match[2])) > 1 else match[2]
    return f"{match[1]}{top}/{match[3]}"


def by_sympy(core: str, rng: Random) -> str | None:
    """Expanded or factored by a computer algebra system; no roots, whose letters have a sign."""
    value = value_of(core) if is_plain(core) and r"\sqrt" not in core else None
    if value is None or not value.free_symbols or len(core) > 60:
        return None
    other = rng.choice((sp.expand, sp.factor, sp.together))(value)
    return str(sp.latex(other)) if other != value else str(sp.latex(value))


def python_style(core: str, rng: Random) -> str | None:
    """As programs write it: * and **."""
    value = value_of(core) if is_plain(core) else None
    is_short = value is not None and len(core) < 40 and not value.has(sp.E, sp.log)
    return str(value) if value is not None and is_short and "_" not in str(value) else None


def one_more(core: str, rng: Random) -> str | None:
    """An expression and one more."""
    return f"{core} + {rng.choice((1, 2))}"


def negated(core: str, rng: Random) -> str | None:
    """The other sign, of what is not 0."""
    return f"-({core})"


def doubled(core: str, rng: Random) -> str | None:
    """Twice, or half, what is not 0."""
    return rng.choice((f"2({core})", rf"\frac{{{core}}}{{2}}"))


def sign_of_a_term(core: str, rng: Random) -> str | None:
    """The other sign of a term that is not 0."""
    pieces = terms(core)
    if len(pieces) < 2:
        return None
    index = rng.randrange(1, len(pieces))
    piece = pieces[index]
    pieces[index] = ("+" if piece[0] == "-" else "-") + piece[1:]
    return joined(pieces)


def a_term_less(core: str, rng: Random) -> str | None:
    """Without a term that is not 0."""
    pieces = terms(core)
    return joined(pieces[:-1]) if len(pieces) > 1 else None


def a_number_off(core: str, rng: Random) -> str | None:
    """One number in the expression raised by one."""
    spots = list(re.finditer(r"(?<![\d.])\d{1,4}(?![\d.])", core))
    if not spots:
        return None
    spot = rng.choice(spots)
    return f"{core[: spot.start()]}{int(spot[0]) + 1}{core[spot.end() :]}"


def cube_root(core: str, rng: Random) -> str | None:
    r"""\sqrt[3] for \sqrt, of a number above 1."""
    text = re.sub(r"\\sqrt(?= ?\{)", r"\\sqrt[3]", core, count=1)
    return text if text != core else None


def approximated(core: str, rng: Random) -> str | None:
    """A decimal of few digits is not an irrational number; the key asks for the exact value."""
    value = value_of(core)
    if value is None or value.free_symbols or value.is_rational is not False:
        return None
    number = float(value)
    return f"{number:.{rng.choice((2, 3, 4))}f}" if 0.1 < abs(number) < 10**5 else None


def without_pi(core: str, rng: Random) -> str | None:
    r"""Without the factor pi."""
    text = re.sub(r" ?\\pi", "", core, count=1)
    return text if re.search(r"\d", text) and text != core else None


def evaluated(core: str, rng: Random) -> str | None:
    """A constant that is an integer, written out."""
    value = value_of(core)
    is_whole = value is not None and value.is_Integer and abs(value) < 10**15
    return str(value) if is_whole and str(value) != core else None


def other_letter_power(core: str, rng: Random) -> str | None:
    """Times one of its own letters: another function."""
    letters = sorted(set(re.findall(r"(?<![a-zA-Z\\])[a-z](?![a-zA-Z])", core)) - {"e", "i"})
    return rf"{rng.choice(letters)}({core})" if letters else None


# complex numbers


def i_first(core: str, rng: Random) -> str | None:
    """The imaginary part first."""
    return reordered(core, rng)


def conjugate(core: str, rng: Random) -> str | None:
    """The conjugate of what is not real."""
    return re.sub(r"(?<![a-zA-Z\\])i(?![a-zA-Z])", "(-i)", core)


def parts_swapped(core: str, rng: Random) -> str | None:
    """Real and imaginary part changed over, where they differ."""
    match = re.fullmatch(r"(-?) ?(\d+) ?([+-]) ?(\d*) ?i", core)
    if not match or (match[1] or "+") + match[2] == match[3] + (match[4] or "1"):
        return None
    return f"{match[3].strip('+')}{match[4] or 1} {match[1] or '+'} {match[2]}i"


# scientific form


def _mantissa(core: str) -> tuple[str, int]:
    digits, _, power = re.sub(r" ?\\times ?10 ?\^ ?\{ ?(-?\d+) ?\}", r"e\1", core).partition("e")
    return digits, int(power)


def e_notation(core: str, rng: Random) -> str | None:
    """m e k, as calculators write it."""
    return "{}e{}".format(*_mantissa(core))


def times_or_dot(core: str, rng: Random) -> str | None:
    r"""\times or \cdot before the power of ten."""
    return r"{} \{} 10^{{{}}}".format(
        _mantissa(core)[0], rng.choice(("times", "cdot")), _mantissa(core)[1]
    )


def written_out(core: str, rng: Random) -> str | None:
    """All digits of a power of ten that is not large."""
    digits, power = _mantissa(core)
    if abs(power) > 7:
        return None
    value = sp.Rational(digits) * sp.Rational(10) ** power
    if value.is_Integer:
        return str(value)
    places = max(0, len(digits.partition(".")[2]) - power)
    return f"{float(value):.{places}f}" if places < 12 else None


def power_off(core: str, rng: Random) -> str | None:
    """Another power of ten."""
    digits, power = _mantissa(core)
    return rf"{digits} \times 10^{{{power + rng.choice((1, -1))}}}"


def power_sign(core: str, rng: Random) -> str | None:
    """The other sign of a power that is not 0."""
    digits, power = _mantissa(core)
    return rf"{digits} \times 10^{{{-power}}}" if power else None


def mantissa_off(core: str, rng: Random) -> str | None:
    """Another last digit."""
    digits, power = _mantissa(core)
    return rf"{digits[:-1]}{(int(digits[-1]) + 1) % 10} \times 10^{{{power}}}"


# equations


def sides_swapped(core: str, rng: Random) -> str | None:
    """An equation read from the right."""
    left, _, right = core.partition("=")
    return f"{right.strip()} = {left.strip()}"


def all_on_one_side(core: str, rng: Random) -> str | None:
    """The difference of the sides is 0."""
    left, _, right = core.partition("=")
    return f"{left.strip()} - ({right.strip()}) = 0" if right.strip() != "0" else None


def both_sides_doubled(core: str, rng: Random) -> str | None:
    """Both sides times two."""
    left, _, right = core.partition("=")
    return f"2({left.strip()}) = 2({right.strip()})" if right.strip() != "0" else None


def right_side_alone(core: str, rng: Random) -> str | None:
    """y = f(x) asked for as an expression: the name on the left may be left out."""
    left, _, right = core.partition("=")
    return (
        right.strip()
        if re.fullmatch("[yz]", left.strip()) and not re.search("[yz]", right)
        else None
    )


def right_side_off(core: str, rng: Random) -> str | None:
    """Another constant term."""
    return f"{core} {rng.choice('+-')} {rng.choice((1, 3))}"


def term_sign_in_equation(core: str, rng: Random) -> str | None:
    """The other sign of one term; the other terms stay, so no factor undoes it."""
    left, _, right = core.partition("=")
    pieces = terms(right.strip() if right.strip() != "0" else left.strip())
    if len(pieces) < 2:
        return None
    changed = sign_of_a_term(joined(pieces), rng)
    return f"{left.strip()} = {changed}" if right.strip() != "0" else f"{changed} = 0"


def number_off_in_equation(core: str, rng: Random) -> str | None:
    """One number raised by one, in an equation of several terms."""
    left, _, right = core.partition("=")
    several = len(terms(left.strip())) + len(terms(right.strip())) > 2
    return (
        f"{left}={a_number_off(right, rng)}"
        if several and re.search(r"\d", right.strip("0 "))
        else None
    )


def both_roots(core: str, rng: Random) -> str | None:
    r"""a \pm b is the two values a + b and a - b."""
    plus, minus = both(core)
    plus = plus.strip().lstrip("+ ")
    return rng.choice(
        (f"{plus}, {minus}", rf"{plus} \text{{ and }} {minus}", rf"\{{{minus}, {plus}\}}")
    )


def one_root(core: str, rng: Random) -> str | None:
    """One of two values alone, where what follows the sign is not 0."""
    return rng.choice(both(core)).strip().lstrip("+ ")


def roots_off(core: str, rng: Random) -> str | None:
    """Two other values."""
    return rf"1 + {core}" if not core.startswith((r"\pm", "-")) else rf"1 {core}"


_COMMON = (in_brackets, reordered, over_itself, tight, display)
_COMMON_CHANGES = (one_more, negated, doubled, sign_of_a_term, a_term_less, a_number_off)
KEEPS: dict[str, tuple[Rule, ...]] = {
    "surd": (
        *_COMMON,
        *(zero_added, unicode_signs, root_with_factor_inside, dotted_coefficient, half_power),
        *(factor_before_fraction, fraction_in_line),
    ),
    "pi": (*_COMMON, unicode_signs, dotted_coefficient, factor_before_fraction, fraction_in_line),
    "constant": (*_COMMON, evaluated),
    "algebra": (*_COMMON, zero_added, dotted_coefficient, by_sympy, python_style, fraction_in_line),
    "complex": (i_first, in_brackets, tight, display, over_itself),
    "scientific": (e_notation, times_or_dot, written_out),
    "equation": (
        sides_swapped,
        all_on_one_side,
        both_sides_doubled,
        right_side_alone,
        tight,
        display,
    ),
    "plus-minus": (both_roots, tight, display),
}
CHANGES: dict[str, tuple[Rule, ...]] = {
    "surd": (*_COMMON_CHANGES, cube_root, approximated),
    "pi": (*_COMMON_CHANGES, without_pi, approximated),
    "constant": (*_COMMON_CHANGES, approximated),
    "algebra": (*_COMMON_CHANGES, other_letter_power),
    "complex": (one_more, negated, conjugate, parts_swapped, doubled, a_number_off),
    "scientific": (power_off, power_sign, mantissa_off),
    "equation": (right_side_off, term_sign_in_equation, number_off_in_equation),
    "plus-minus": (one_root, roots_off),
}
