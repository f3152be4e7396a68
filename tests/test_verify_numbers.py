"""Numbers, quantities and units as exact rationals."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1pipe.verify.equivalence import decide
from r1pipe.verify.reading.numbers import parse_quantity
from r1pipe.verify.reading.units import conversion, parse_unit
from r1pipe.verify.reading.values import Scalar

VALUES = [
    ("5", Fraction(5)),
    ("-5", Fraction(-5)),
    ("−5", Fraction(-5)),  # U+2212
    ("+5", Fraction(5)),
    ("5.", Fraction(5)),
    (".5", Fraction(1, 2)),
    ("12.50", Fraction(25, 2)),
    ("1,234", Fraction(1234)),
    ("1{,}234", Fraction(1234)),
    (r"1\,000", Fraction(1000)),  # math-verify reads 0
    ("2 500", Fraction(2500)),  # math-verify reads 502
    ("１，０００", Fraction(1000)),  # full width
    ("1/3", Fraction(1, 3)),
    (r"\frac{3}{4}", Fraction(3, 4)),
    (r"\dfrac34", Fraction(3, 4)),
    (r"-\frac{1}{2}", Fraction(-1, 2)),
    (r"\frac{-1}{2}", Fraction(-1, 2)),
    ("3 1/2", Fraction(7, 2)),
    (r"3\frac12", Fraction(7, 2)),
    ("3½", Fraction(7, 2)),
    ("½", Fraction(1, 2)),
    (r"0.\overline{3}", Fraction(1, 3)),
    ("0.1(6)", Fraction(1, 6)),
    ("1.5e6", Fraction(1_500_000)),
    (r"1.5\times10^{6}", Fraction(1_500_000)),
    ("1e-7", Fraction(1, 10**7)),
    ("$5$", Fraction(5)),
    (r"\(5\)", Fraction(5)),
    (r"\left. 5 \right.", Fraction(5)),
    ("5 million", Fraction(5_000_000)),
    ("3万", Fraction(30_000)),
]

NOT_NUMBERS = ["", "x", "2c", "a^2", "3:5", "1/0", "1e9999", "5*3", "1,23", "2+3", "(1,2)", "5 m"]


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_a_number_is_read_exactly(text: str, value: Fraction) -> None:
    assert parse_quantity(text) == Scalar(value)


@pytest.mark.parametrize("text", NOT_NUMBERS)
def test_what_is_no_number_is_not_read_as_one(text: str) -> None:
    assert parse_quantity(text) is None


SAME = [
    ("72", "72.0"),
    ("72", "$72"),
    ("72", "72 clips"),
    ("1/2", "0.5"),
    ("3/4", "6/8"),  # unreduced fractions are right
    ("50%", "0.5"),
    ("50%", "50"),
    ("0.5", r"50\%"),
    (r"5 \text{ cm}", "5"),
    ("5", r"5\text{ cm}^2"),
    (r"1 \text{ km}", r"1000 \text{ m}"),
    (r"15\mathrm{~m/s^2}", r"15 \text{ m s}^{-2}"),
    (r"36 \text{ km/h}", r"10 \text{ m/s}"),
    (r"\$0.50", "50 cents"),
    ("18元", "18"),
    ("7个", "7 apples"),  # a counting word fits every noun
    ("5 apples", "5 red apples"),
    ("n = 5", "5"),
    ("60 mph", "60 miles per hour"),
    ("30°", "30"),
]

DIFFERENT = [
    ("75", "0.75"),  # no percent sign, no conversion
    ("1/3", "0.333333"),  # rounded
    ("1/3", "0.33"),
    ("0.142857", "1/7"),
    (r"5 \text{ cm}", r"5 \text{ m}"),
    (r"15 \text{ cm}", r"15 \text{ cm}^2"),
    (r"\$5", r"5\%"),
    ("5", r"\$5\%"),
    ("5 apples", "5 oranges"),
    ("n=5", "m=5"),
    ("1000", "1.000"),
    ("1000", r"1\,00"),
    ("5", "-5"),
    ("18", "18 18"),
    ("12000000000000000000001", "12000000000000000000002"),
    ("1.2e-7", "1.3e-7"),
]


@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_equal_quantities_are_equal(gold: str, answer: str) -> None:
    assert decide(gold, answer) is True


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different_quantities_differ(gold: str, answer: str) -> None:
    assert decide(gold, answer) is not True


def test_a_single_letter_is_a_variable_unless_it_is_set_as_text() -> None:
    assert parse_quantity("5 m") is None
    metres = parse_quantity(r"5\text{ m}")
    assert metres is not None
    assert metres.unit == parse_unit("meters")


def test_units_convert_by_exact_factors() -> None:
    inch, foot = parse_unit("inch"), parse_unit("square feet")
    square_inch = parse_unit("in^2")
    assert inch is not None
    assert foot is not None
    assert square_inch is not None
    assert conversion(foot, square_inch) == 144
    assert conversion(foot, inch) is None


def test_over_long_and_over_deep_answers_are_wrong_at_once() -> None:
    assert decide("x", "x" + "+1" * 200) is False
    assert decide("x", "(" * 13 + "x" + ")" * 13) is False
    assert decide("x", "(" * 12 + "x" + ")" * 12) is None


@given(st.fractions())
def test_every_fraction_survives_writing_and_reading(value: Fraction) -> None:
    latex = rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    assert parse_quantity(latex) == parse_quantity(str(value)) == Scalar(value)


@given(st.integers(), st.integers(min_value=0, max_value=10**6 - 1))
def test_every_decimal_survives_grouping(whole: int, digits: int) -> None:
    text = f"{whole:,}.{digits:06d}"
    expected = abs(whole) + Fraction(digits, 10**6)
    assert parse_quantity(text) == Scalar(expected if whole >= 0 else -expected)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    parse_quantity(text)
