"""Filters of sampled completions, and what a candidate is."""

from __future__ import annotations

import json
import random
from typing import Any

import pyarrow as pa
import pytest

from r1pipe.candidates.candidate import (
    SCHEMA,
    Origin,
    Sample,
    candidate_row,
    identity,
    reason_dropped,
)
from r1pipe.candidates.filters import decide, is_kept, longest_paragraph, repeats_beyond
from r1pipe.chat import boxed, render_completion
from r1pipe.records import FinishReason, Problem, Verdict
from r1pipe.settings import Keep
from r1pipe.verify import VERIFIER_VERSION

PROBLEM = Problem("p", "arithmetic", "2+3", "5", checker="number")
KEEP = Keep(min_language_share=0.8, max_paragraph_chars=60, max_repeats=2)


def chat(thought: str, summary: str = f"It is {boxed('5')}") -> str:
    return render_completion(thought, "", "chat", summary)


def decisions(text: str, fmt: Any = "chat", **changes: Any) -> dict[str, bool]:
    reason = changes.pop("finish_reason", FinishReason.STOP)
    verdict = changes.pop("verdict", Verdict.CORRECT)
    keep = KEEP.model_copy(update=changes)
    return decide(PROBLEM, text, reason, verdict, keep, fmt)


def dropped_by(text: str, **changes: Any) -> list[str]:
    return [name for name, passed in decisions(text, **changes).items() if not passed]


# ---- filters -------------------------------------------------------------------------------------


def test_a_correct_and_readable_completion_passes_every_filter() -> None:
    found = decisions(chat("two and three are five"))
    assert set(found) == {
        "verdict", "truncated", "format", "language", "paragraph", "code", "repetition"
    }  # fmt: skip
    assert is_kept(found)


@pytest.mark.parametrize("verdict", [v for v in Verdict if v is not Verdict.CORRECT])
def test_every_verdict_but_correct_is_dropped(verdict: Verdict) -> None:
    assert dropped_by(chat("two and three"), verdict=verdict) == ["verdict"]


DROPPED = {
    "format": f"<think>\nso be it\n</think>\n\n{boxed('5')} or {boxed('5')}",
    "language": chat("two 加三得五 so"),
    "paragraph": chat("sum 1+2+3+4+5+6+7+8+9+10+11+12+13+14+15+16+17+18+19+20+21+22+23+24"),
    "code": chat("run ```1+1``` now"),
    "repetition": chat("1+2+3+4," * 3),
}


@pytest.mark.parametrize("name", DROPPED)
def test_a_filter_drops_what_it_should_and_no_other_does(name: str) -> None:
    assert dropped_by(DROPPED[name]) == [name]


def test_a_truncated_completion_is_dropped() -> None:
    assert dropped_by(chat("two"), finish_reason=FinishReason.LENGTH) == ["truncated"]


def test_an_unclosed_thought_is_dropped_for_its_format() -> None:
    assert dropped_by("<think> two and three") == ["format"]


def test_each_format_is_held_to_its_own_layout() -> None:
    zero = render_completion("two and three", "5", "r1-zero")
    assert dropped_by(zero, fmt="r1-zero") == []
    assert dropped_by(zero, fmt="chat") == ["format"]
    assert dropped_by(chat("two and three"), fmt="r1-zero") == ["format"]


def test_thresholds_are_met_at_their_edge() -> None:
    four_of_five = chat("two and three are 五")  # a share of 0.8
    assert dropped_by(four_of_five) == []
    assert dropped_by(four_of_five, min_language_share=0.81) == ["language"]
    assert dropped_by(chat("1" * 7 + "+" + "2" * 52)) == ["repetition"]
    fifty = chat("abcdefghij klmnopqrs tuvwxyzab cdefghijk lmnopqrst")
    assert longest_paragraph("abcdefghij klmnopqrs tuvwxyzab cdefghijk lmnopqrst") == 50
    assert dropped_by(fifty, max_paragraph_chars=50) == []
    assert dropped_by(fifty, max_paragraph_chars=49) == ["paragraph"]
    twice = chat("1+2+3+4," * 2)
    assert dropped_by(twice) == []
    assert dropped_by(twice, max_repeats=1) == ["repetition"]


def test_code_is_kept_where_the_manifest_says_so() -> None:
    assert dropped_by(DROPPED["code"], code_blocks=True) == []


def test_bare_arithmetic_has_no_language_to_judge() -> None:
    assert dropped_by(chat("2+3=5")) == []


def test_the_summary_is_not_what_the_filters_of_the_thought_read() -> None:
    assert dropped_by(chat("two and three", f"```x``` 答案是五五五五 {boxed('5')}")) == []


def test_a_paragraph_ends_at_a_blank_line() -> None:
    assert longest_paragraph("") == 0
    assert longest_paragraph("abc") == 3
    assert longest_paragraph("ab\ncd\n\nabcdef\n\na") == 6


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("", 1),
        ("abcdefgh", 1),
        ("abcdefghabcdefgh", 2),
        ("xyabcdefghabcdefghabcdefghz", 3),
        ("abcdefgh-abcdefgh", 1),  # with a gap
        ("abcdefgabcdefg", 1),  # seven characters are too few
        ("a" * 15, 1),
        ("a" * 16, 2),
        ("a" * 40, 5),
        (("a" * 30 + "b" * 34) * 3, 4),  # eight of the 34 b, four times: longer than the block
        ("0123456789" * 4 + "x" + "0123456789" * 2, 4),
    ],
)
def test_repetitions_are_counted_by_hand(text: str, times: int) -> None:
    assert most_repeated(text) == times
    assert [repeats_beyond(text, limit) for limit in range(1, 8)] == [
        times > limit for limit in range(1, 8)
    ]


def test_repetitions_are_found_as_a_slower_search_finds_them() -> None:
    rng = random.Random(7)
    beyond = 0
    for _ in range(300):
        letters = rng.choice(["ab", "abc", "a b中", "0123456789"])
        block = "".join(rng.choice(letters) for _ in range(rng.randrange(1, 40)))
        text = block[: rng.randrange(9)] + block * rng.randrange(1, 7) + block[:5]
        found = [repeats_beyond(text, limit) for limit in range(1, 8)]
        assert found == [most_repeated(text) > limit for limit in range(1, 8)], text
        beyond += sum(found)
    assert 300 < beyond < 1500, "some repeat and some do not"


def most_repeated(text: str) -> int:
    """Return how often some block of 8 to 64 characters follows itself, character by character."""
    most = 1
    for size in range(8, min(64, len(text) // 2) + 1):
        matched = 0
        for i in range(len(text) - size):
            matched = matched + 1 if text[i] == text[i + size] else 0
            most = max(most, matched // size + 1)
    return most


# ---- candidates ----------------------------------------------------------------------------------


ORIGIN = Origin("chat", 0.7, "m" * 8, Keep())


def sample(text: str, reason: FinishReason = FinishReason.STOP) -> Sample:
    return Sample(PROBLEM, 2, 11, text, 9, reason)


def test_a_candidate_says_where_it_came_from_and_what_every_filter_said() -> None:
    row = candidate_row(sample(chat("two and three")), Verdict.CORRECT, ORIGIN)
    assert row == {
        "id": "p#2", "problem_id": "p", "task": "arithmetic", "language": "en", "format": "chat",
        "prompt": "2+3", "gold": "5", "completion": chat("two and three"), "num_tokens": 9,
        "finish_reason": "stop", "model_id": "m" * 8, "temperature": 0.7, "seed": 11,
        "verifier_version": VERIFIER_VERSION, "verdict": "correct", "kept": True,
        "filters": json.dumps(dict.fromkeys(sorted(decisions(chat("two"))), True)),
    }  # fmt: skip
    cut = candidate_row(sample("<think> two", FinishReason.LENGTH), Verdict.NO_ANSWER, ORIGIN)
    failed = {name for name, passed in json.loads(cut["filters"]).items() if not passed}
    assert failed == {"verdict", "truncated", "format"}
    assert not cut["kept"]
    assert reason_dropped(cut) == "dropped_format"  # the first by name


def test_the_columns_are_those_of_the_schema_in_its_order() -> None:
    row = candidate_row(sample(chat("two and three")), Verdict.CORRECT, ORIGIN)
    assert pa.Table.from_pylist([row]).schema == SCHEMA


@pytest.mark.parametrize("verdict", [Verdict.TIMEOUT, Verdict.CRASHED, Verdict.GOLD_UNUSABLE])
def test_a_fault_of_the_verifier_is_a_failure_and_no_drop(verdict: Verdict) -> None:
    row = candidate_row(sample(chat("two and three")), verdict, ORIGIN)
    assert reason_dropped(row) == f"failed_{verdict}"


def test_the_identity_of_a_row_is_that_of_prompt_and_completion_together() -> None:
    one = identity({"prompt": "ab", "completion": "x", "seed": 1})
    assert one == identity({"prompt": "ab", "completion": "x", "seed": 2})
    assert one != identity({"prompt": "a", "completion": "bx"})
    assert len(one) == 16
