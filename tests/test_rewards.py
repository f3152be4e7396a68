"""Rewards: what earns them, and a table of cheats for each that earns nothing."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from r1pipe.chat import render_completion
from r1pipe.errors import StageError
from r1pipe.records import Problem
from r1pipe.rewards.language import language_share
from r1pipe.rewards.length import soft_overlong
from r1pipe.rewards.model import helpfulness_text, safety_text
from r1pipe.rewards.table import REWARDS

GOLD = r"\boxed{5}"


def problem(language: str = "en", checker: str = "number", **meta: Any) -> Problem:
    return Problem("p", "task", "2+3?", "5", language=language, checker=checker, meta=meta)


RIGHT_ZERO = [
    "<think>2+3=5</think> <answer>5</answer>",
    "<think>2+3=5</think><answer>5</answer>",
    "<think>2+3=5</think>\r\n\n<answer>5</answer>\n",
    "<think>\nline\nline\n</think>\n<answer>\n5\n</answer>",
]

CHEATS_ZERO = {
    "nothing": "",
    "no thought": "<answer>5</answer>",
    "an empty thought": "<think></think> <answer>5</answer>",
    "a blank thought": "<think> \n </think> <answer>5</answer>",
    "an empty answer": "<think>a</think> <answer> </answer>",
    "no answer": "<think>a</think> 5",
    "an unclosed thought": "<think>a <answer>5</answer>",
    "an unclosed answer": "<think>a</think> <answer>5",
    "text before": "Sure! <think>a</think> <answer>5</answer>",
    "text between": "<think>a</think> so <answer>5</answer>",
    "text after": "<think>a</think> <answer>5</answer> Done.",
    "a line after": "<think>a</think> <answer>5</answer>\nDone.",
    "a second answer": "<think>a</think> <answer>5</answer> <answer>6</answer>",
    "an answer in the answer": "<think>a</think> <answer><answer>5</answer></answer>",
    "a second thought": "<think>a</think> <think>b</think> <answer>5</answer>",
    "a nested thought": "<think><think>a</think></think> <answer>5</answer>",
    "two closers": "<think>a</think></think> <answer>5</answer>",
    "the answer in the thought": "<think>a <answer>5</answer></think>",
    "the answer first": "<answer>5</answer> <think>a</think>",
    "a thought in the answer": "<think>a</think> <answer><think>5</answer>",
    "a prefilled opener": "a</think> <answer>5</answer>",
    "upper case": "<THINK>a</THINK> <ANSWER>5</ANSWER>",
}

RIGHT_CHAT = [
    f"<think>\n2+3=5\n</think>\n\nThe sum is {GOLD}.",
    rf"<think>maybe \boxed{{4}}</think> It is {GOLD}",
]

CHEATS_CHAT = {
    "nothing": "",
    "no thought": f"It is {GOLD}",
    "an empty thought": f"<think></think> It is {GOLD}",
    "no summary": "<think>a</think>",
    "a blank summary": "<think>a</think>  \n",
    "no box": "<think>a</think> It is 5",
    "the box in the thought": f"<think>{GOLD}</think> It is 5",
    "two boxes": rf"<think>a</think> {GOLD} or \boxed{{6}}",
    "an empty box": r"<think>a</think> \boxed{}",
    "an empty box beside": rf"<think>a</think> \boxed{{}} {GOLD}",
    "nested boxes": r"<think>a</think> \boxed{\boxed{5}}",
    "an unclosed box": r"<think>a</think> \boxed{5",
    "an answer tag": f"<think>a</think> <answer>{GOLD}</answer>",
    "an answer closer": f"<think>a</think> {GOLD}</answer>",
    "an unclosed thought": f"<think>a {GOLD}",
    "text before": f"Well <think>a</think> {GOLD}",
    "two closers": f"<think>a</think> b</think> {GOLD}",
    "a thought reopened": f"<think>a</think> {GOLD} <think>",
}


@pytest.mark.parametrize("text", RIGHT_ZERO)
def test_the_zero_format_is_rewarded(text: str) -> None:
    assert REWARDS["format_zero"](problem(), text) == 1.0


@pytest.mark.parametrize("name", CHEATS_ZERO)
def test_a_zero_format_cheat_earns_nothing(name: str) -> None:
    assert REWARDS["format_zero"](problem(), CHEATS_ZERO[name]) == 0.0


@pytest.mark.parametrize("text", RIGHT_CHAT)
def test_the_chat_format_is_rewarded(text: str) -> None:
    assert REWARDS["format_chat"](problem(), text) == 1.0


@pytest.mark.parametrize("name", CHEATS_CHAT)
def test_a_chat_format_cheat_earns_nothing(name: str) -> None:
    assert REWARDS["format_chat"](problem(), CHEATS_CHAT[name]) == 0.0


def test_free_text_problems_need_no_box() -> None:
    text = "<think>a</think> I am a small model."
    assert REWARDS["format_chat"](problem(checker="contains"), text) == 1.0
    assert REWARDS["format_chat"](problem(checker="refusal"), text) == 1.0
    assert REWARDS["format_chat"](problem(checker="contains"), "<think>a</think> ") == 0.0


def test_the_two_formats_are_those_that_chat_renders() -> None:
    zero = render_completion("2+3=5", "5", "r1-zero")
    chat = render_completion("2+3=5", GOLD, "chat")
    assert REWARDS["format_zero"](problem(), zero) == 1.0
    assert REWARDS["format_chat"](problem(), chat) == 1.0
    assert REWARDS["format_chat"](problem(), zero) == REWARDS["format_zero"](problem(), chat) == 0.0


@pytest.mark.timeout(120)  # quadratic time would be hours
def test_formats_take_linear_time_on_hostile_text() -> None:
    for text in ("<think>" * 150_000, "<think>" + r"\boxed{" * 140_000, "</answer>" * 100_000):
        for name in ("format_zero", "format_chat", "language", "length"):
            assert REWARDS[name](problem(), text) in (0.0, 1.0) or name == "length"


CHEATS_ACCURACY = {
    "a hedge": r"<think>a</think> \boxed{5} or \boxed{6}",
    "a list": r"<think>a</think> \boxed{4}, \boxed{5}",
    "every number": r"<think>a</think> \boxed{1,2,3,4,5}",
    "only in the thought": r"<think>\boxed{5}</think> done",
    "an unclosed thought": r"<think>\boxed{5}",
    "the last one wrong": r"<think>a</think> \boxed{5} \ldots \boxed{6}",
    "a false equation": r"<think>a</think> \boxed{3=5}",
    "text": r"<think>a</think> \boxed{\text{five or so}}",
    "no box": r"<think>a</think> it must be 5",
}


@pytest.mark.parametrize("name", CHEATS_ACCURACY)
def test_an_accuracy_cheat_earns_nothing(name: str) -> None:
    assert REWARDS["accuracy"](problem(), CHEATS_ACCURACY[name]) == 0.0


def test_accuracy_is_one_for_a_correct_completion() -> None:
    assert REWARDS["accuracy"](problem(), r"<think>a</think> \boxed{5}") == 1.0


SHARES = [
    ("we add two and three", "en", 1.0),
    ("we add 两个数", "en", 2 / 5),  # we, add; three characters
    ("我们 add 两个数", "zh", 5 / 6),  # five characters, one word
    ("3+4=7 so 7*2=14 thus 14", "en", 1.0),
    ("x+y=z", "en", None),  # single letters are variables
    ("3+4=7", "en", None),
    ("", "en", None),
    (r"\frac{1}{2} and \sin(x)", "zh", 0.0),  # only "and" is a word
    (r"$abc+def$ 所以", "zh", 1.0),  # products of variables are LaTeX
    ("`print(total)` 所以", "zh", 1.0),
    ("мы складываем 两", "ru", 2 / 3),
    ("우리는 더한다 and", "ko", 2 / 3),
    ("これは数", "ja", 1.0),  # kana and kanji
    ("これは数", "zh", 1 / 4),  # kana is not Chinese
    ("it's fine", "en", 1.0),
    ("it's fine", "zh", 0.0),
    ("Sin x, max y, 3 km", "en", None),  # names of functions, and units
    ("so sin x, max y, 3 km", "en", 1.0),
    (r"\frac{1}{2} $ab + cd$ `sum`", "en", None),  # LaTeX and code
    ("نجمع اثنين and", "en", 1 / 3),
    ("نجمع اثنين and", "ar", 2 / 3),
    ("שתיים ושלוש", "he", 1.0),
    ("दो और तीन", "hi", 1.0),  # vowel signs are part of a word
    ("เราบวก so", "th", 1 / 2),
    ("และ" * 4, "en", 0.0),  # without spaces: two words of six letters, none English
    ("δύο και τρία, so", "el", 3 / 4),
    ("ორს and სამს", "en", 1 / 3),  # a script that no language here is told by
    ("x² + αβ <= ½ µ ℝ 𝑥𝑦 Ⅳ", "en", None),  # signs, and products of variables
]


@pytest.mark.parametrize(
    "thought",
    ["نجمع اثنين", "เราบวกสอง", "हम दो", "προσθέτουμε δύο", "שתיים ושלוש", "мы складываем",
     "ჩვენ ორს", "আমরা দুই", "நாம் இரண்டு", "យើងបូក", "ሁለት እና"],
)  # fmt: skip
def test_a_thought_in_another_script_is_not_one_without_words(thought: str) -> None:
    text = f"<think>{thought} 2+3=5</think> 5"
    assert REWARDS["language"](problem("en"), text) == 0.0
    assert REWARDS["language"](problem("zh"), text) == 0.0


@pytest.mark.parametrize(("thought", "language", "share"), SHARES)
def test_language_shares_are_those_counted_by_hand(
    thought: str, language: str, share: float | None
) -> None:
    assert language_share(thought, language) == (share if share is None else pytest.approx(share))


CHEATS_LANGUAGE = {
    "no thought": "我们先算二加三",
    "an unclosed thought": "<think>我们先算二加三",
    "the other language": "<think>we add two and three</think> 答案是五",
    "the right language in the summary only": "<think>two plus three</think> 我们先算二加三",
    "hidden in LaTeX": "<think>$we add two and three and get five$</think> 答",
    "hidden in text": r"<think>$\text{we add two and three}$</think> 答",
    "hidden in code": "<think>```\nwe add two and three\n```</think> 答",
    "hidden in backticks": "<think>`we add two and three`</think> 答",
    "Japanese": "<think>これをたすと、ごになる</think> 答",
}


@pytest.mark.parametrize("name", CHEATS_LANGUAGE)
def test_a_language_cheat_earns_nothing(name: str) -> None:
    assert REWARDS["language"](problem("zh"), CHEATS_LANGUAGE[name]) == 0.0


def test_a_thought_without_words_is_consistent() -> None:
    assert REWARDS["language"](problem("zh"), r"<think>2+3=5</think> \boxed{5}") == 1.0


def test_english_and_chinese_need_no_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lingua", None)
    assert language_share("wir addieren und so weiter", "en") == 1.0
    with pytest.raises(StageError, match=r"'de' shares its script with English.*lingua-language"):
        language_share("wir addieren und so weiter", "de")


def test_the_length_reward_falls_linearly() -> None:
    # limit 100, buffer 20: full to 80, half at 90, nothing at 100
    assert [soft_overlong(n, 100, 20) for n in (0, 80, 90, 95, 100, 1000)] == [
        1,
        1,
        0.5,
        0.25,
        0,
        0,
    ]
    assert REWARDS["length"](problem(max_chars=100), "x" * 90) == 0.5
    assert REWARDS["length"](problem(max_chars=100), "x" * 1_000_000) == 0.0


def test_helpfulness_sees_the_summary_and_safety_sees_everything() -> None:
    text = "<think>a secret</think>\n\nHello. "
    assert helpfulness_text(text) == "Hello."
    assert helpfulness_text("<think>a secret") == ""
    assert helpfulness_text("<think>a</think> x <think> y") == ""
    assert safety_text(text) == text


def test_every_reward_stays_between_zero_and_one() -> None:
    odd = ["", "\x00", "\ud800", "<think>", "<think>x</think>", "\\" * 100, "$" * 99, "`" * 99]
    for name, reward in REWARDS.items():
        for text in [*odd, *RIGHT_ZERO, *RIGHT_CHAT]:
            assert 0.0 <= reward(problem(), text) <= 1.0, (name, text)
