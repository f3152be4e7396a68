"""Rules on integers, with separators or without."""

from __future__ import annotations

from random import Random

from answer_rules.rule import Rule

_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"),
    *("eighteen", "nineteen", "twenty"),
)
_FULL_WIDTH = str.maketrans("0123456789.-", "０１２３４５６７８９．－")


def whole(core: str) -> int:
    """Return an integer with or without separators."""
    return int(core.replace(",", "").replace(" ", ""))


def zeros_after_the_point(core: str, rng: Random) -> str | None:
    """n.0 and n.00 are n."""
    return f"{whole(core)}.{'0' * rng.choice((1, 2))}"


def separators(core: str, rng: Random) -> str | None:
    """1,234 as English writes it, and LaTeX's 1{,}234, are 1234."""
    n = whole(core)
    return f"{n:,}".replace(",", rng.choice((",", "{,}", r"{,}"))) if abs(n) >= 1000 else None


def thin_spaces(core: str, rng: Random) -> str | None:
    r"""1\,234 is 1234 as SI and LaTeX group digits."""
    n = whole(core)
    return f"{n:,}".replace(",", r"\,") if abs(n) >= 1000 else None


def no_separators(core: str, rng: Random) -> str | None:
    """The same digits, not grouped."""
    return str(whole(core))


def unreduced(core: str, rng: Random) -> str | None:
    r"""\frac{kn}{k} is n."""
    k = rng.choice((2, 3, 5))
    return rf"\frac{{{k * whole(core)}}}{{{k}}}"


def product(core: str, rng: Random) -> str | None:
    r"""The product of two divisors is n."""
    n = whole(core)
    divisors = [d for d in range(2, 20) if n % d == 0 and n != d]
    d = rng.choice(divisors) if divisors and n > 0 else None
    return rf"{d} \{rng.choice(('times', 'cdot'))} {n // d}" if d else None


def true_sum(core: str, rng: Random) -> str | None:
    """a + b = n is a true chain that ends in n."""
    n = whole(core)
    a = rng.randrange(1, max(2, n)) if n > 2 else None
    return f"{a} + {n - a} = {n}" if a else None


def word(core: str, rng: Random) -> str | None:
    """The English word of a small number."""
    n = whole(core)
    return rng.choice((r"\text{%s}", "%s")) % _WORDS[n] if 0 <= n <= 20 else None


def powers_of_ten(core: str, rng: Random) -> str | None:
    """m x 10^k, with m k places shorter, is n."""
    n = whole(core)
    digits = str(abs(n)).rstrip("0")
    k = len(str(abs(n))) - 1
    if n == 0 or k < 3 or len(digits) > 5:
        return None
    mantissa = digits[0] + (f".{digits[1:]}" if digits[1:] else "")
    return rf"{'-' if n < 0 else ''}{mantissa} \times 10^{{{k}}}"


def full_width(core: str, rng: Random) -> str | None:
    """Full-width digits are the same digits, in Chinese typesetting."""
    return str(whole(core)).translate(_FULL_WIDTH)


def root_of_square(core: str, rng: Random) -> str | None:
    r"""\sqrt{n^2} is n for n > 0, written out."""
    n = whole(core)
    return rf"\sqrt{{{n * n}}}" if 1 < n < 200 else None


def one_off(core: str, rng: Random) -> str | None:
    """n + 1 and n - 1 are not n."""
    return str(whole(core) + rng.choice((1, -1)))


def other_sign(core: str, rng: Random) -> str | None:
    """-n is not n unless n is 0."""
    return str(-whole(core)) if whole(core) else None


def tenfold(core: str, rng: Random) -> str | None:
    """10 n is not n unless n is 0."""
    return str(10 * whole(core)) if whole(core) else None


def swapped_digits(core: str, rng: Random) -> str | None:
    """Two different neighbouring digits changed over."""
    text = str(abs(whole(core)))
    spots = [i for i in range(len(text) - 1) if text[i] != text[i + 1] and (i or text[1] != "0")]
    if not spots:
        return None
    i = rng.choice(spots)
    return ("-" if whole(core) < 0 else "") + text[:i] + text[i + 1] + text[i] + text[i + 2 :]


def dropped_digit(core: str, rng: Random) -> str | None:
    """Without its last digit a number of two and more is another."""
    return str(whole(core))[:-1] if abs(whole(core)) >= 10 else None


def half_more(core: str, rng: Random) -> str | None:
    """n.5 is not n."""
    return f"{whole(core)}.{rng.choice(('5', '1', '01'))}"


def squared(core: str, rng: Random) -> str | None:
    """n^2 is not n unless n is 0 or 1."""
    return f"{whole(core)}^2" if whole(core) > 1 else None


def times_pi(core: str, rng: Random) -> str | None:
    r"""n\pi is not n unless n is 0."""
    return rf"{whole(core)}\pi" if whole(core) else None


def rooted(core: str, rng: Random) -> str | None:
    r"""\sqrt{n} is not n unless n is 0 or 1."""
    return rf"\sqrt{{{whole(core)}}}" if whole(core) > 1 else None


def plus_variable(core: str, rng: Random) -> str | None:
    """n + x is no constant."""
    return f"{whole(core)}{rng.choice(('+x', 'x', ' + n'))}" if whole(core) else None


def listed_with_another(core: str, rng: Random) -> str | None:
    """Two values where one is asked for."""
    n = whole(core)
    return rng.choice((f"{n}, {n + 1}", f"{n - 1} and {n}", rf"\{{{n}, {n + 2}\}}"))


def at_least(core: str, rng: Random) -> str | None:
    """An inequality is not the number at its end."""
    return rng.choice((rf"x \ge {whole(core)}", f"x > {whole(core)}", rf"n \le {whole(core)}"))


def ratio_to_two(core: str, rng: Random) -> str | None:
    """n / 2 is not n unless n is 0."""
    return rf"\frac{{{whole(core)}}}{{2}}" if whole(core) else None


def factorial(core: str, rng: Random) -> str | None:
    """n! is not n for n > 2."""
    return f"{whole(core)}!" if 2 < whole(core) < 30 else None


_CHANGES = (
    *(one_off, other_sign, tenfold, swapped_digits, dropped_digit, half_more, squared, times_pi),
    *(rooted, plus_variable, listed_with_another, at_least, ratio_to_two, factorial),
)
KEEPS: dict[str, tuple[Rule, ...]] = {
    "integer": (
        *(zeros_after_the_point, separators, thin_spaces, unreduced, product, true_sum, word),
        *(powers_of_ten, full_width, root_of_square),
    ),
    "grouped": (
        *(no_separators, thin_spaces, unreduced, powers_of_ten, zeros_after_the_point),
        full_width,
    ),
}
CHANGES: dict[str, tuple[Rule, ...]] = {
    "integer": _CHANGES,
    "grouped": (one_off, tenfold, swapped_digits, dropped_digit, half_more, ratio_to_two, at_least),
}
