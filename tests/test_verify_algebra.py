"""The algebraic layer: what is read, what is equal, and what is refused."""

from __future__ import annotations

import pytest
import sympy as sp

from r1pipe.verify.comparing.expressions import proportional, same_expression
from r1pipe.verify.equivalence import decide
from r1pipe.verify.reading import scan
from r1pipe.verify.reading.latex import parse_expression
from r1pipe.verify.reading.normalise import plain
from r1pipe.verify.reading.values import Group, Scalar, Spans, TooBigError, UnreadableError
from r1pipe.verify.workers.symbolic import CORRECT, READER, verdict

x, y, n = sp.symbols("x y n")

PARSED = [
    ("x^2+2x+1", x**2 + 2 * x + 1),
    (r"\frac{1}{2}x^2", x**2 / 2),
    (r"\frac12", sp.Rational(1, 2)),
    (r"3\frac12", sp.Rational(7, 2)),
    (r"2\frac{x}{3}", 2 * x / 3),
    ("0.1+0.2", sp.Rational(3, 10)),  # exact, not 0.30000000000000004
    ("2^-1", sp.Rational(1, 2)),
    ("-x^2", -(x**2)),
    ("x^{10}", x**10),
    ("x^10", x**10),
    ("x**2", x**2),
    (r"\sqrt{8}", 2 * sp.sqrt(2)),
    (r"\sqrt[3]{-8}", sp.Integer(-2)),
    (r"\sqrt2x", sp.sqrt(2) * x),
    ("|3+4i|", sp.Integer(5)),
    ("2|x|", 2 * sp.Abs(x)),
    ("||x|-1|", sp.Abs(sp.Abs(x) - 1)),
    ("e^{i\\pi}", sp.Integer(-1)),
    (r"\sin^2 x", sp.sin(x) ** 2),
    (r"\sin 2x", sp.sin(2 * x)),
    (r"\sin x\cos x", sp.sin(x) * sp.cos(x)),
    (r"\sin^{-1} x", sp.asin(x)),
    (r"\cos 60^\circ", sp.Rational(1, 2)),
    (r"\log_2 8", sp.Integer(3)),
    (r"\lg 100", sp.Integer(2)),
    ("sqrt(2)", sp.sqrt(2)),
    ("2x(x+1)", 2 * x * (x + 1)),
    ("x_1", sp.Symbol("x_1")),
    ("x_{12}", sp.Symbol("x_12")),
    ("n!", sp.factorial(n)),
    (r"\binom{5}{2}", sp.Integer(10)),
    ("5%", sp.Rational(1, 20)),
    ("f(x)", sp.Function("f")(x)),
]


@pytest.mark.parametrize(("text", "expression"), PARSED)
def test_an_expression_is_parsed_exactly(text: str, expression: sp.Expr) -> None:
    assert parse_expression(plain(text)) == expression


REFUSED = ["", "1 2", "(1+2", "1+2)", "1/0", "2+", "x^", r"\frac{1}", r"\text{cm}", "x = 2", "4!!!"]
REFUSED += [r"\frac{d}{dx}", r"\int x", "__import__('os')", "[1,2]", "\u0665", "\u2460", "a;b", "#"]


@pytest.mark.parametrize("text", REFUSED)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UnreadableError):
        parse_expression(plain(text))


TOO_BIG = ["9^{9^{9}}", "9**9**9", "2^{-10^{10}}", "(10^9)!", r"\binom{10^9}{5}", "x^{10^9}"]


@pytest.mark.parametrize("text", TOO_BIG)
def test_what_cannot_be_written_out_is_refused_before_it_is_computed(text: str) -> None:
    with pytest.raises(TooBigError):
        parse_expression(text)


EQUAL = [
    ("x^2-y^2", "(x-y)(x+y)"),
    (r"\frac{x-1}{x^2-1}", r"\frac{1}{x+1}"),  # also where both have holes
    (r"\sqrt{1/n}", r"\frac{1}{\sqrt{n}}"),  # wherever both are real
    (r"\sqrt{5+2\sqrt6}", r"\sqrt2+\sqrt3"),
    ("0", r"\sqrt8-2\sqrt2"),
    (r"e^{i\theta}", r"\cos\theta+i\sin\theta"),
    (r"(-1)^n", r"\cos(n\pi)"),  # at whole n
    ("f(x)+1", "1+f(x)"),
]
UNEQUAL = [
    ("|x|", "x"),
    (r"\sqrt{x^2}", "x"),
    ("10^{-20}", "10^{-21}"),
    (r"\frac{1}{2004!}", r"\frac{1}{2006!}"),
    (r"\sqrt{10^{100}+1}", "10^{50}"),  # they differ in the 101st digit
    (r"\pi", r"\frac{355}{113}"),
    (r"\sin(10^{400})", "0"),
    ("x", "y"),
    ("x", "X"),
    (r"\ln 0", "0"),
]


@pytest.mark.parametrize(("left", "right"), EQUAL)
def test_equal_expressions_are_equal(left: str, right: str) -> None:
    assert same_expression(parse_expression(left), parse_expression(right))


@pytest.mark.parametrize(("left", "right"), UNEQUAL)
def test_unequal_expressions_are_not(left: str, right: str) -> None:
    assert not same_expression(parse_expression(left), parse_expression(right))


def test_proportional_means_by_one_constant() -> None:
    assert proportional(2 * x - 4 * y, 3 * x - 6 * y)
    assert not proportional(2 * x - 4 * y, 3 * x - 5 * y)
    assert not proportional(x, x**2)
    assert not proportional(x, y)


def test_one_text_can_have_two_readings() -> None:
    pair, interval = READER.readings("(1,2)")
    assert isinstance(pair, Group)
    assert pair.kind == "tuple"
    assert isinstance(interval, Spans)
    assert interval.parts[0].is_low_open


def test_names_belong_to_values() -> None:
    (value,) = READER.readings("x=5")
    assert isinstance(value, Scalar)
    assert (value.name, value.value) == ("x", 5)


def test_splitting_respects_every_bracket() -> None:
    assert scan.split_at(r"1,(2,3),\{4,5\},[6,7)", ",") == ["1", "(2,3)", r"\{4,5\}", "[6,7)"]
    matrix = r"\begin{pmatrix}1,2\\3,4\end{pmatrix}"
    assert scan.split_at(matrix + ",5", ",") == [matrix, "5"]
    assert scan.outer_brackets("(1)(2)") is None
    assert scan.outer_brackets("((1),(2))") == ("(", "(1),(2)", ")")


ASYMMETRIC = [("101_2", "101", True), ("101", "101_2", False)]


@pytest.mark.parametrize(("gold", "answer", "is_right"), ASYMMETRIC)
def test_a_base_may_be_left_out_but_not_made_up(gold: str, answer: str, is_right: bool) -> None:
    assert (verdict(gold, answer) == CORRECT) == is_right


def test_the_exact_layer_and_the_algebraic_one_agree_where_both_decide() -> None:
    texts = ["5", "5.0", r"\frac{10}{2}", "(1,2)", "(2,1)", r"\{1,2\}", r"\{2,1\}", "[1,2)"]
    texts += [
        r"1\le x<2",
        "1,2",
        "50%",
        "0.5",
        "5 cm",
        r"50\text{ mm}",
        "x>1",
        r"(1,\infty)",
        "B",
        "(B)",
    ]
    decided = 0
    for gold in texts:
        for answer in texts:
            fast = decide(gold, answer)
            if fast is not None:
                decided += 1
                assert fast == (verdict(gold, answer) == CORRECT), (gold, answer)
    assert decided > 200


def test_sums_and_integrals_are_worked_out_exactly() -> None:
    assert verdict(r"\int_0^1 x\,dx", r"\frac12") == CORRECT
    assert verdict(r"\sum_{k=1}^{3}k", "6") == CORRECT
    assert verdict(r"\sum_{k=1}^{3}k", "5=6") != CORRECT
    assert verdict(r"\sum_{k=1}^{3}k", "6c") != CORRECT
    assert verdict(r"\sum_{k=1}^{3}\frac{k}{10^7}", r"\frac{7}{10^7}") != CORRECT


def test_a_letter_with_an_index_and_a_power_is_no_count() -> None:
    root = r"\left[P_{0}^{2/5}-\frac{2}{5}gz\right]^{5/2}"
    assert verdict(root, r"\left[-\frac{2}{5}gz+P_0^{2/5}\right]^{5/2}") == CORRECT
    assert verdict(root, r"\left[P_1^{2/5}-\frac{2}{5}gz\right]^{5/2}") == "wrong"
    assert verdict("C_{10}^{3}", "120") == CORRECT
    assert verdict("C(10,3)", "120") == CORRECT
