"""Why a completion has no answer, and what is said of an evaluation without answers."""

from __future__ import annotations

from typing import Any

import pytest

from r1pipe.audit.reasons import example_lines, reason_of
from r1pipe.evaluation.warnings import completion_warnings


@pytest.mark.parametrize(
    ("text", "finish_reason", "reason"),
    [
        ("", "stop", "the completion is empty"),
        (" \n", "length", "the completion is empty"),
        ("<think>1 +", "length", "the completion was cut off at max_tokens before the thought was"),
        ("<think>1 +", "stop", "the completion ended before the thought was closed"),
        ("It is clear that", "length", "was cut off at max_tokens before an answer"),
        (".com/10100", "stop", "there is no box, answer tag or final phrase"),
    ],
)
def test_a_completion_without_an_answer_says_why(
    text: str, finish_reason: str, reason: str
) -> None:
    said = reason_of(text, "7", "no_answer", finish_reason)
    assert said.startswith("no answer: ")
    assert reason in said


def test_an_answer_is_named_with_the_verdict() -> None:
    assert reason_of("\\boxed{5}", "7", "wrong", "stop") == "wrong: '5', not '7'"
    assert reason_of("\\boxed{7}", "7", "correct", "stop") == "correct: '7'"
    assert reason_of("no idea", "7", "gold_unusable", "stop") == "gold_unusable"


def test_control_characters_and_markup_are_written_out_and_long_texts_cut() -> None:
    lines = example_lines("a\x1b[31m[red]b", "x" * 400 + "\nend", "why\x07"[:3])
    assert lines[0] == "  prompt: a\\x1b[31m[red]b"
    assert lines[1] == f"  completion: {'x' * 214} ... {'x' * 102}\\nend (404 characters)"
    assert lines[2] == "  why"


def row(verdict: str, finish_reason: str = "stop", completion: str = "none") -> dict[str, Any]:
    return {
        "prompt": "1 + 1?",
        "gold": "2",
        "completion": completion,
        "verdict": verdict,
        "finish_reason": finish_reason,
    }


def test_nine_of_ten_without_an_answer_are_warned_of_with_two_examples() -> None:
    rows = [row("no_answer", completion=f"text {i}") for i in range(9)] + [row("wrong")]
    (text,) = completion_warnings(rows, "sums")
    assert text.startswith("sums: 9 of 10 completions have no answer; does the model answer in")
    assert text.count("  completion: text") == 2
    assert text.count("no answer: there is no box, answer tag or final phrase") == 2
    assert completion_warnings(rows[1:], "sums") == []  # 8 of 9


def test_four_of_five_that_are_cut_are_warned_of() -> None:
    rows = [row("wrong", "length", "\\boxed{3}")] * 4 + [row("correct", completion="\\boxed{2}")]
    (text,) = completion_warnings(rows, "sums")
    assert text.startswith("sums: 4 of 5 completions are cut off at max_tokens; give more tokens")
    assert text.count("wrong: '3', not '2'") == 2
    assert completion_warnings([*rows, row("correct")], "sums") == []  # 4 of 6


def test_a_benchmark_without_samples_is_not_warned_of() -> None:
    assert completion_warnings([], "sums") == []
