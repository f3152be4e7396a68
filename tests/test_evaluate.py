"""Measures and intervals against values worked by hand and slower implementations."""

from __future__ import annotations

import itertools
import math
import random
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from r1pipe.evaluation.metrics import (
    bootstrap_interval,
    maj_at_k,
    paired_difference,
    pass_at_k,
    pass_by_problem,
    sample_counts,
    summarise,
)
from r1pipe.evaluation.votes import votes
from r1pipe.records import Verdict


def test_pass_at_k_is_the_share_of_subsets_that_hold_a_right_sample() -> None:
    for n in range(1, 9):
        for c, k in itertools.product(range(n + 1), range(1, n + 1)):
            subsets = list(itertools.combinations([i < c for i in range(n)], k))
            expected = sum(any(subset) for subset in subsets) / len(subsets)
            assert pass_at_k(n, c, k) == pytest.approx(expected), (n, c, k)


def test_pass_at_k_by_hand() -> None:
    # 1 - C(3,2)/C(4,2) = 1 - 3/6
    assert pass_at_k(4, 1, 2) == pytest.approx(0.5)
    assert pass_at_k(1000, 1, 100) == pytest.approx(0.1)
    assert pass_at_k(4, 0, 4) == 0.0


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 0), (4, 1, 5)])
def test_pass_at_k_refuses_impossible_counts(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match=r"pass@k needs"):
        pass_at_k(n, c, k)


MAJORITIES = [
    (["5", "5", "6"], [True, True, False], 1.0),
    (["5", "6", "6"], [True, False, False], 0.0),
    (["5", "6"], [True, False], 0.5),  # a tie is split
    (["5", "6", "7"], [True, False, False], 1 / 3),
    ([None, None, "5"], [False, False, True], 1.0),  # no answer, no vote
    ([None, None], [False, False], 0.0),
]


@pytest.mark.parametrize(("answers", "correct", "value"), MAJORITIES)
def test_the_majority_votes(answers: list[str | None], correct: list[bool], value: float) -> None:
    assert maj_at_k(answers, correct, len(answers)) == pytest.approx(value)


def test_only_the_first_k_samples_vote() -> None:
    answers, correct = ["5", "6", "6"], [True, False, False]
    assert maj_at_k(answers, correct, 1) == 1.0
    assert maj_at_k(answers, correct, 3) == 0.0


def test_the_bootstrap_interval_is_that_of_a_slow_loop() -> None:
    values = np.array([0.0, 1.0, 0.5, 0.25, 1.0])
    generator = np.random.Generator(np.random.PCG64(3))
    means = []
    for drawn in generator.integers(0, 5, size=(500, 5)):
        means.append(sum(float(values[i]) for i in drawn) / 5)
    low, high = np.quantile(means, [0.05, 0.95])
    interval = bootstrap_interval(values, seed=3, num_resamples=500, level=0.9)
    assert interval == pytest.approx((low, high))


def test_the_bootstrap_interval_agrees_with_the_normal_one_on_many_problems() -> None:
    values = np.array([1.0] * 300 + [0.0] * 700)
    low, high = bootstrap_interval(values, seed=0)
    half = NormalDist().inv_cdf(0.975) * math.sqrt(0.3 * 0.7 / 1000)
    assert (low, high) == pytest.approx((0.3 - half, 0.3 + half), abs=0.004)  # 2000 resamples


def test_equal_values_give_an_interval_of_no_width() -> None:
    assert bootstrap_interval([0.5] * 10, seed=1) == (0.5, 0.5)


def test_an_interval_needs_one_value_per_problem() -> None:
    with pytest.raises(ValueError, match=r"not shape \(2, 2\)"):
        bootstrap_interval(np.zeros((2, 2)), seed=0)


def test_differences_are_paired_by_problem() -> None:
    # every problem gains 0.25, however much the problems differ
    before = {f"p{i}": i / 100 for i in range(75)}
    after = {key: value + 0.25 for key, value in before.items()} | {"other": 1.0}
    difference = paired_difference(after, before)
    assert difference.mean == pytest.approx(0.25)
    assert (difference.low, difference.high) == pytest.approx((0.25, 0.25))
    assert difference.num_problems == 75


def test_the_least_detectable_difference_is_that_of_the_textbook() -> None:
    # differences +1 and -1, four each: sample deviation sqrt(8/7), standard error / sqrt(8)
    a = {str(i): float(i % 2) for i in range(8)}
    b = {str(i): float((i + 1) % 2) for i in range(8)}
    difference = paired_difference(a, b)
    error = math.sqrt(8 / 7) / math.sqrt(8)
    assert difference.min_detectable == pytest.approx((1.959964 + 0.841621) * error, rel=1e-5)
    assert difference.low < 0 < difference.high


def test_results_without_a_shared_problem_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="share no problem id"):
        paired_difference({"a": 1.0}, {"b": 1.0})


def classes(
    *answers: str | None, right: tuple[str, ...] = (), checker: str = "math"
) -> list[int | None]:
    """Return the classes of answers, of which those in `right` were verified as correct."""
    group = [
        row("p", Verdict.CORRECT if a in right else Verdict.WRONG, "", a, checker=checker)
        for a in answers
    ]
    return votes(group)


def test_a_half_in_three_spellings_outvotes_two_threes() -> None:
    answers = ["1/2", "3", r"\frac{1}{2}", "3", "0.5"]
    halves = ("1/2", r"\frac{1}{2}", "0.5")
    assert classes(*answers, right=halves) == [0, 1, 0, 1, 0]
    is_right = [answer in halves for answer in answers]
    assert maj_at_k(classes(*answers, right=halves), is_right, 5) == 1.0
    assert maj_at_k(answers, is_right, 5) == 0.0, "as they are written the threes win"


def test_wrong_answers_in_three_spellings_outvote_two_right_ones() -> None:
    answers = ["1/2", "3", r"\frac{1}{2}", "3", "0.5"]
    found = classes(*answers, right=("3",))
    assert found == [1, 0, 1, 0, 1]
    assert maj_at_k(found, [answer == "3" for answer in answers], 5) == 0.0


EQUAL = [
    ("math", [r"2\sqrt{2}", r"\sqrt{8}", "3"], [1, 1, 2]),  # by algebra
    ("math", ["(1,2)", "(1, 2)", "(2,1)"], [1, 1, 2]),
    ("math", ["50\\%", "1/2", "0.50"], [1, 1, 1]),
    ("number", ["1,000", "1000", "1000.0", "x"], [1, 1, 1, 2]),
    ("choice", ["(B)", "B", "b) it is", "C"], [1, 1, 1, 2]),
    ("word", ["Paris", "paris.", "Rome"], [1, 1, 2]),
    ("countdown", ["1+2", "2+1", "1+2"], [1, 2, 1]),  # right in many ways: as written
    ("math", ["3", None, "3.0"], [1, None, 1]),
    ("math", ["1" * 301, "1" * 301, "2"], [1, 1, 2]),
]


@pytest.mark.parametrize(("checker", "answers", "expected"), EQUAL)
def test_votes_are_classes_of_equal_answers(
    checker: str, answers: list[str | None], expected: list[int | None]
) -> None:
    assert classes(*answers, checker=checker) == expected


def test_right_expressions_of_countdown_are_different_votes() -> None:
    assert classes("1+2", "2+1", right=("1+2", "2+1"), checker="countdown") == [1, 2]


def test_an_answer_that_ran_out_of_time_is_compared_with_none() -> None:
    group = [row("p", v, "", a, checker="math") for v, a in (
        (Verdict.TIMEOUT, "9^{9^9}"), (Verdict.WRONG, "4"), (Verdict.TIMEOUT, "9^{9^9}")
    )]  # fmt: skip
    assert votes(group) == [1, 2, 1]


def test_classes_are_those_of_comparing_every_pair() -> None:
    rng = random.Random(4)
    spellings = [["1/2", "0.5", r"\frac12"], ["3", "3.0", "6/2"], [r"\sqrt{2}"], ["x+1", "1+x"]]
    flat = [(value, text) for value, texts in enumerate(spellings) for text in texts]
    for _ in range(6):
        drawn = rng.choices(flat, k=24)
        found = classes(*[text for _, text in drawn])
        for (a, left), (b, right) in itertools.combinations(
            zip([v for v, _ in drawn], found, strict=True), 2
        ):
            assert (a == b) == (left == right)


def test_the_majority_of_64_samples_counts() -> None:
    # 8 wrong ones come first: maj@8 is wrong, maj@64 right
    rows = [row("p", Verdict.WRONG, "", "7")] * 8 + [row("p", Verdict.CORRECT, "", "5")] * 56
    summary = summarise(rows)
    assert [k for k in summary if k.startswith("maj@")] == [f"maj@{2**i}" for i in range(7)]
    values = {k: summary[f"maj@{k}"]["value"] for k in (1, 8, 16, 32, 64)}
    assert values == {1: 0.0, 8: 0.0, 16: 0.5, 32: 1.0, 64: 1.0}
    # of all choices of 8 one has no right sample
    assert summary["pass@8"]["value"] == pytest.approx(1 - 1 / math.comb(64, 8))
    assert summary["pass@64"]["value"] == 1.0


def test_k_goes_up_to_the_samples_of_every_problem() -> None:
    assert sample_counts(1) == [1]
    assert sample_counts(2) == [1, 2]
    assert sample_counts(12) == [1, 2, 4, 8, 12]


def row(
    problem: str, verdict: Verdict, text: str, extracted: str | None, **more: Any
) -> dict[str, Any]:
    base = {"problem_id": problem, "task": "t", "language": "en", "checker": "number"}
    return (
        base
        | {
            "verdict": verdict.value,
            "extracted": extracted,
            "num_tokens": 10,
            "finish_reason": "stop",
            "completion": text,
        }
        | more
    )


GOOD = r"<think>two words</think> so \boxed{5}"
ROWS = [
    row("a", Verdict.CORRECT, GOOD, "5"),
    row("a", Verdict.CORRECT, GOOD, "5"),
    row("a", Verdict.WRONG, GOOD, "6"),
    row("a", Verdict.NO_ANSWER, "<think>两 words", None, num_tokens=50, finish_reason="length"),
    row("b", Verdict.WRONG, GOOD, "7"),
    row("b", Verdict.WRONG, r"<think>也 words</think> \boxed{7}", "7"),
    row("b", Verdict.CORRECT, GOOD, "5"),
    row("b", Verdict.TIMEOUT, r"<think>some words</think> 9", "9^9^9"),
]


def test_a_summary_by_hand() -> None:
    summary = summarise(ROWS)
    # of a, 2 of 4; of b, 1 of 4
    assert summary["pass@1"]["value"] == pytest.approx((0.5 + 0.25) / 2)
    # of a, 1 - C(2,2)/C(4,2) = 5/6; of b, 1 - C(3,2)/C(4,2) = 1/2
    assert summary["pass@2"]["value"] == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert summary["pass@4"]["value"] == 1.0
    assert "pass@8" not in summary
    assert summary["is_interval_rough"]
    assert summary["maj@1"]["value"] == pytest.approx(0.5)  # a: 5; b: 7
    assert summary["maj@4"]["value"] == pytest.approx(0.5)  # a: 5 wins; b: 7 wins
    assert summary["format_validity"]["value"] == pytest.approx((3 / 4 + 3 / 4) / 2)
    # a: 1, 1, 1, no thought; b: 1, one of two, 1, 1
    assert summary["language_consistency"]["value"] == pytest.approx((3 / 4 + 3.5 / 4) / 2)
    assert summary["mean_tokens"]["value"] == pytest.approx((20 + 10) / 2)
    assert summary["truncation_rate"]["value"] == pytest.approx(1 / 8)
    assert summary["no_answer_rate"]["value"] == pytest.approx(1 / 8)
    assert summary["verdicts"]["timeout"] == 1
    assert summary["num_problems"], summary["num_samples"] == (2, 8)


def test_intervals_are_by_problem() -> None:
    # two problems at 0.5 and 0.25: resampled means are 0.25, 0.375 or 0.5
    assert summarise(ROWS)["pass@1"]["low"] == 0.25
    assert summarise(ROWS)["pass@1"]["high"] == 0.5


def test_the_order_of_rows_changes_nothing() -> None:
    shuffled = [ROWS[i] for i in (4, 0, 5, 1, 6, 2, 7, 3)]
    assert summarise(shuffled) == summarise(ROWS)


def test_pass_by_problem_is_what_pairs_compare() -> None:
    assert pass_by_problem(ROWS) == {"a": 0.5, "b": 0.25}


def test_no_rows_are_an_error() -> None:
    with pytest.raises(ValueError, match="no rows"):
        summarise([])
