"""Extraction: which part of a completion is its answer."""

from __future__ import annotations

import time

import pytest

from r1pipe.verify.reading.extract import boxes, extract_answer, find_answer

FOUND = [
    (r"<think>2</think> \boxed{3}", "3"),
    (r"\boxed{3} then \boxed{4}", "4"),  # the last box
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),  # braces balance
    (r"\boxed{\{1,2\}}", r"\{1,2\}"),  # escaped braces do not count
    (r"so \boxed{5}, as in \boxed{}", "5"),  # an empty box is none
    (r"so \boxed{5}, as in \boxed{ \, $ $ }", "5"),
    (r"\boxed{\boxed{5}}", "5"),
    (r"\fbox{5}", "5"),
    (r"\boxed {5}", "5"),
    (r"\boxed{3}, \boxed{7}", "3, 7"),  # joined by a comma: one list
    (r"$\boxed{3}$ and $\boxed{7}$", "3, 7"),
    (r"\boxed{3} and \boxed{3}", "3"),
    (r"\boxed{3}, but no: \boxed{7}", "7"),
    (r"<answer>6</answer>", "6"),
    (r"<answer>5</answer> <answer>6</answer>", "6"),
    (r"<answer>6</answer> <answer> </answer>", "6"),
    (r"<answer>$\boxed{6}$</answer>", "6"),
    (r"<answer>The answer is 6.</answer>", "6"),
    (r"<answer>5</answer> but \boxed{6}", "6"),  # a box before a tag
    ("work\n#### 42", "42"),
    ("work\n####42 dollars", "42 dollars"),
    ("#### Step 2\nThe answer is 5.", "5"),  # a heading is no answer
    ("The answer is 5.", "5"),
    ("The answer is: 3.5. Done.", "3.5"),
    ("the final answer is $x+1$.", "$x+1$"),
    ("**Answer:** 12", "12"),
    ("Answer: C", "C"),
    ("The answer is 5, because 2+3=5.", "5"),
    ("The answer is 4. No, the answer is 5.", "5"),
    ("答案：7", "7"),
    ("答案是7，因为3+4=7。", "7"),
    ("所以答案为 $12$。", "$12$"),
    ("故选 B", "B"),
    ("故选：B。", "B"),
    ("She has 3 left.\nA: 18", "18"),  # the style of GSM8K's model solutions
]

NOT_FOUND = [
    "",
    "   ",
    "42",
    r"<think>\boxed{3}",  # an unclosed thought has no answer
    r"<think>\boxed{3}</think>",  # nor has one that ends with the thought
    r"<think>\boxed{3}</think> so it is done",
    r"<think>a</think> \boxed{3} <think> hm",  # reopened and not closed
    r"\boxed{",
    r"\boxed{3",
    r"\boxed{}",
    "<answer>5",
    "<answer></answer>",
    "</answer>5<answer>",
    "I have 3 apples and 5 pears",
    "A: 12\nB: 15",
    "A: red\nB: blue\nA: green",
]


@pytest.mark.parametrize(("text", "answer"), FOUND)
def test_the_answer_is_found(text: str, answer: str) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize("text", NOT_FOUND)
def test_no_answer_is_invented(text: str) -> None:
    assert extract_answer(text) is None


def test_only_text_behind_the_last_thought_counts() -> None:
    text = r"<think>\boxed{1}</think> \boxed{2} </think> \boxed{3}"
    assert extract_answer(text) == "3"


def test_boxes_joined_by_or_are_a_hedge() -> None:
    for glue in (" or ", r"$ or $", "或", ", or "):
        assert find_answer(rf"\boxed{{3}}{glue}\boxed{{7}}").is_hedge, glue


def test_a_tag_can_be_preferred_to_a_box() -> None:
    text = r"<answer>1+2</answer> gives \boxed{3}"
    assert extract_answer(text) == "3"
    assert extract_answer(text, prefer="tag") == "1+2"


def test_the_method_is_named() -> None:
    texts = [r"\boxed{1}", "<answer>1</answer>", "#### 1", "answer is 1", "none"]
    assert [find_answer(t).method for t in texts] == ["box", "tag", "hash", "phrase", "none"]


def test_boxes_are_outermost_and_not_empty() -> None:
    assert boxes(r"\boxed{1} \boxed{} \boxed{\boxed{2} + 1}") == ["1", r"\boxed{2} + 1"]


HOSTILE = {
    "open boxes": r"\boxed{" * 140_000,
    "open tags": "<answer>" * 125_000,
    "closed tags": "</answer>" * 110_000,
    "tag pairs without content": "<answer></answer>" * 60_000,
    "thoughts": "<think></think>" * 66_000,
    "hashes": "#" * 1_000_000,
    "hash lines": "####\n" * 200_000,
    "anchors": "answer is " * 100_000,
    "anchors with gaps": ("answer" + " " * 50) * 18_000,
    "braces": "{" * 500_000 + "}" * 500_000,
    "nested boxes": r"\boxed{" * 70_000 + "}" * 70_000,
    "adjacent boxes": r"\boxed{1}, " * 90_000,
    "spaces": r"\boxed" + " " * 1_000_000,
    "dollars": r"\boxed{$" + "$" * 1_000_000 + "}",
    "backslashes": "\\" * 1_000_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_million_hostile_characters_take_under_two_seconds(name: str) -> None:
    start = time.thread_time()
    extract_answer(HOSTILE[name])
    assert time.thread_time() - start < 2.0
