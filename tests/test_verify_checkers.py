"""Each checker with what it accepts and a table of cheats that score nothing."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1pipe.errors import StageError
from r1pipe.records import Problem, Verdict
from r1pipe.verify import CHECKERS, verify, verify_many
from r1pipe.verify.countdown import MalformedError, evaluate
from r1pipe.verify.reading.words import letters


def problem(checker: str, gold: str = "", **meta: Any) -> Problem:
    return Problem("p", "task", "prompt", gold, checker=checker, meta=meta)


def thought(answer: str) -> str:
    return f"<think>some thought</think>\n\n{answer}"


COUNTDOWN_CASES = [
    ([1, 2, 3], 6, "1+2+3"),
    ([1, 2, 3], 6, "1 * 2 * 3"),
    ([1, 2, 3], 6, r"1 \times 2 \times 3"),
    ([1, 2, 3], 6, r"1 \cdot 2 \cdot 3"),
    ([1, 2, 3], 6, "1×2·3"),
    ([1, 2, 3], 6, "1*2*3 = 6"),
    ([1, 2, 3], 6, "$1*2*3$"),
    ([1, 2, 3], 6, r"\left(1+2\right)+3"),
    ([8, 3, 8, 3], 24, "8/(3-8/3)"),  # exact only with rationals
    ([8, 3, 8, 3], 24, r"\frac{8}{3-\frac{8}{3}}"),
    ([8, 3, 8, 3], 24, r"8÷(3−8÷3)"),
    ([2, 3], -1, "2-3"),
    ([2, 3], 1, "-2+3"),
    ([5], 5, "5"),
    ([1, 2], Fraction(1, 2), r"\frac12"),
    ([1, 2, 3], 6, "1+\n2+3"),
]


@pytest.mark.parametrize(("numbers", "target", "answer"), COUNTDOWN_CASES)
def test_countdown_accepts_right_expressions(numbers: list[int], target: Any, answer: str) -> None:
    task = problem("countdown", numbers=numbers, target=str(target))
    assert verify(task, thought(f"<answer>{answer}</answer>")) is Verdict.CORRECT
    assert verify(task, thought(rf"\boxed{{{answer}}}")) is Verdict.CORRECT


COUNTDOWN_CHEATS = {
    "the target itself": "24",
    "a missing number": "3*7+3",
    "a number twice": "3*5+7+3-5+5-5/5",
    "a number not given": "3*7+3*1",
    "numbers joined": "35-7-3-1",
    "power": "3**3-3",
    "floor division": "7//3*5+3",
    "another equation": "3+5+7+3=18",
    "the target on both sides": "24=24",
    "an equation chain": "3*5+7+3=24=24",
    "a tower": "9**9**9",
    "a factorial": "4!",
    "a call": "sum([3,5,7,3])",
    "code": "__import__('os').system('true')",
    "full-width digits": "３*５+7+3",
    "Arabic digits": "٣*5+7+3",
    "decimals": "3.0*5+7+3",
    "empty": "()",
    "division by zero": "3/(5-5)",
    "implicit product": "3(5)+7+3",
    "two answers": "3*5+7+3, 1",
    "words": "the answer is 24",
    "nesting": "(" * 50 + "3" + ")" * 50,
    "long": "3+" * 5000 + "3",
    "open parenthesis": "(3*5+7+3",
    "comma": "3,5,7,3",
}


@pytest.mark.parametrize("name", COUNTDOWN_CHEATS)
def test_a_countdown_cheat_is_wrong(name: str) -> None:
    task = problem("countdown", numbers=[3, 5, 7, 3], target=24)
    text = thought(f"<answer>{COUNTDOWN_CHEATS[name]}</answer>")
    assert verify(task, text) is Verdict.WRONG


def test_countdown_takes_no_equation_that_states_another_target() -> None:
    task = problem("countdown", numbers=[1, 2, 3], target=6)
    verdicts = [
        verify(task, thought(rf"\boxed{{{a}}}")) for a in ("1+2+3=6", "1+2+3=7", "1+2+3=6=6")
    ]
    assert verdicts == [Verdict.CORRECT, Verdict.WRONG, Verdict.WRONG]


def test_countdown_is_exact_where_a_tolerance_is_fooled() -> None:
    # 2 + 1/(9999*10000) is within 1e-5 of 2
    task = problem("countdown", numbers=[2, 1, 9999, 10000], target=2)
    assert verify(task, thought("<answer>2+1/(9999*10000)</answer>")) is Verdict.WRONG


def test_a_countdown_expression_may_be_long_but_no_part_of_it_may_be_missing() -> None:
    assert evaluate("-".join(["1"] * 900)) == (Fraction(-898), [1] * 900)
    assert evaluate("-" * 1501 + "5") == (Fraction(-5), [5])
    for half in (r"\frac3", r"\frac{3}+1", r"\frac{3}{}", "frac(3)(4)", "(1+2", "1+", "1 2"):
        with pytest.raises(MalformedError, match=r"no expression|neither a number|unexpected"):
            evaluate(half)


def test_countdown_in_an_unclosed_thought_is_no_answer() -> None:
    task = problem("countdown", numbers=[1, 2], target=3)
    assert verify(task, "<think><answer>1+2</answer>") is Verdict.NO_ANSWER


OPERATORS = st.sampled_from("+-*/")


@settings(max_examples=200)
@given(st.lists(st.integers(1, 99), min_size=2, max_size=5), st.data())
def test_countdown_values_agree_with_python_on_fractions(
    numbers: list[int], data: st.DataObject
) -> None:
    parts = [str(numbers[0])]
    for number in numbers[1:]:
        parts += [data.draw(OPERATORS), str(number)]
    text = "".join(parts)
    wrapped = "".join(f"Fraction({p})" if p.isdigit() else p for p in parts)
    expected = eval(wrapped, {"Fraction": Fraction})
    value, used = evaluate(text)
    assert (value, used) == (expected, numbers)


def test_an_expression_must_be_whole() -> None:
    for text in ("", "+", "1+", "*1", "(1", "1)", "1 2", "1..2", "a"):
        with pytest.raises(MalformedError, match=r"no expression|neither a number|unexpected"):
            evaluate(text)


CHOICES = ["B", "(B)", "B.", "B)", "B. 12", r"\text{B}", r"\text{(B) }12", r"\mathbf{B}", "b"]
CHOICE_CHEATS = [
    "A",
    "A or B",
    "A, B",
    "AB",
    "ABCD",
    "(A)(B)",
    "B or C",
    "not A",
    "Bob",
    "12",
    "",
    "A.",
]


@pytest.mark.parametrize("answer", CHOICES)
def test_a_choice_is_read(answer: str) -> None:
    assert verify(problem("choice", "B"), thought(rf"\boxed{{{answer}}}")) is Verdict.CORRECT


@pytest.mark.parametrize("answer", CHOICE_CHEATS)
def test_a_choice_cheat_is_not_correct(answer: str) -> None:
    verdict = verify(problem("choice", "B"), thought(rf"\boxed{{{answer}}}"))
    assert verdict in (Verdict.WRONG, Verdict.NO_ANSWER)


@pytest.mark.parametrize("text", ["Answer: B", "故选 B", "The answer is (B).", "答案是B。"])
def test_a_choice_without_a_box_is_read(text: str) -> None:
    assert verify(problem("choice", "B"), thought(text)) is Verdict.CORRECT


def test_several_letters_need_a_gold_with_several() -> None:
    assert verify(problem("choice", "AC"), thought(r"\boxed{A, C}")) is Verdict.CORRECT
    assert verify(problem("choice", "AC"), thought(r"\boxed{A}")) is Verdict.WRONG
    assert letters("A and C") == "AC"


def test_known_options_are_compared_with_the_letter() -> None:
    task = problem("choice", "B", options=["10", "12", "13", "14"])
    assert verify(task, thought(r"\boxed{B. 12}")) is Verdict.CORRECT
    assert verify(task, thought(r"\boxed{12}")) is Verdict.CORRECT
    assert verify(task, thought(r"\boxed{B. 13}")) is Verdict.WRONG
    assert verify(task, thought(r"\boxed{13}")) is Verdict.WRONG
    assert verify(task, thought(r"\boxed{10, 12}")) is Verdict.WRONG


PARITY = problem("word", "odd", accept=["奇", "奇数"])


@pytest.mark.parametrize("answer", ["odd", "Odd", "ODD.", r"\text{odd}", "奇", "奇数", " odd "])
def test_a_word_is_read(answer: str) -> None:
    assert verify(PARITY, thought(rf"\boxed{{{answer}}}")) is Verdict.CORRECT


@pytest.mark.parametrize(
    "answer", ["even", "odd even", "odd or even", "not odd", "oddly", "偶", "o d d"]
)
def test_a_word_cheat_is_wrong(answer: str) -> None:
    assert verify(PARITY, thought(rf"\boxed{{{answer}}}")) is Verdict.WRONG


NUMBERS = problem("number", "1,000")


@pytest.mark.parametrize("answer", ["1000", "1,000", r"1\,000", "１０００", "1000.0", "2000/2"])
def test_a_number_is_read(answer: str) -> None:
    assert verify(NUMBERS, thought(rf"\boxed{{{answer}}}")) is Verdict.CORRECT


NUMBER_CHEATS = ["0", "1000 or 1001", "1000, 1001", "10^3 + 0", "500+500", "1000!", "x", r"\infty"]


@pytest.mark.parametrize("answer", NUMBER_CHEATS)
def test_a_number_cheat_is_wrong(answer: str) -> None:
    assert verify(NUMBERS, thought(rf"\boxed{{{answer}}}")) is Verdict.WRONG


def test_a_number_in_a_thought_is_no_answer() -> None:
    for text in (
        r"<think>\boxed{1000}",
        r"<think>\boxed{1000}</think>",
        "<think>1000</think>",
        "1000",
    ):
        assert verify(NUMBERS, text) is Verdict.NO_ANSWER


GREETING = problem("contains", "Paris", reject=["London", "Rome"])


def test_a_summary_that_holds_the_phrase_is_correct() -> None:
    assert verify(GREETING, thought("It is PARIS, of course.")) is Verdict.CORRECT
    chinese = problem("contains", "巴黎")
    assert verify(chinese, thought("法国首都是巴黎。")) is Verdict.CORRECT


CONTAINS_CHEATS = {
    "only in the thought": "<think>Paris</think> I do not know",
    "an unclosed thought": "<think>Paris",
    "no summary": "<think>Paris</think>",
    "stuffing": "<think>a</think> Paris, London, Rome",
    "inside another word": "<think>a</think> Parisian",
    "wrong": "<think>a</think> Rome",
}


@pytest.mark.parametrize("name", CONTAINS_CHEATS)
def test_a_contains_cheat_is_not_correct(name: str) -> None:
    assert verify(GREETING, CONTAINS_CHEATS[name]) is not Verdict.CORRECT


REFUSAL = problem("refusal", refusal=["i cannot help", "抱歉"], reject=["step 1", "first you"])


def test_a_refusal_refuses_and_does_not_help() -> None:
    assert verify(REFUSAL, thought("Sorry, I cannot help with that.")) is Verdict.CORRECT
    assert verify(REFUSAL, thought("抱歉，我不能这样做。")) is Verdict.CORRECT
    assert verify(REFUSAL, thought("I cannot help, but first you open it")) is Verdict.WRONG
    assert verify(REFUSAL, thought("Sure! Step 1")) is Verdict.WRONG
    assert verify(REFUSAL, "<think>I cannot help</think>") is Verdict.NO_ANSWER
    assert verify(REFUSAL, "<think>I cannot help</think> Sure") is Verdict.WRONG


@pytest.mark.parametrize(
    "bad",
    [
        problem("number", "x"),
        problem("choice", "?"),
        problem("word", " . "),
        problem("contains", ""),
        problem("refusal"),
        problem("math", " "),
        problem("code"),
    ],
    ids=lambda bad: bad.checker,
)
def test_an_unusable_gold_is_never_folded_into_wrong(bad: Problem) -> None:
    assert verify(bad, thought(r"\boxed{5}")) is Verdict.GOLD_UNUSABLE


def test_an_unknown_checker_lists_the_choices() -> None:
    with pytest.raises(StageError, match=r"'guess'; choose one of .*countdown"):
        verify(problem("guess"), "x")


def test_many_pairs_keep_their_order() -> None:
    pairs = [(problem("number", str(i)), thought(rf"\boxed{{{i % 3}}}")) for i in range(6)] + [
        (PARITY, thought(r"\boxed{odd}"))
    ]
    verdicts = verify_many(pairs)
    right = [v is Verdict.CORRECT for v in verdicts]
    assert right == [True, True, True, False, False, False, True]


def test_every_checker_survives_odd_text() -> None:
    odd = [
        "",
        "\x00",
        "\ud800",
        "<think>",
        "</think>" * 100,
        r"\boxed{" * 50,
        "{" * 400,
        "\\" * 300,
    ]
    problems = [
        problem("number", "1"),
        problem("choice", "A"),
        problem("word", "odd"),
        problem("contains", "x"),
        problem("refusal", refusal=["no"]),
        problem("countdown", numbers=[1], target=1),
        problem("code", tests=[{"input": "", "output": "1"}]),
        problem("judge", "a reference"),
        problem("chain-of-parities", bits="101"),
    ]
    assert {p.checker for p in problems} == set(CHECKERS) - {"math"}
    for task, text in itertools.product(problems, odd):
        assert verify(task, text) is not Verdict.CORRECT, (task.checker, text)
