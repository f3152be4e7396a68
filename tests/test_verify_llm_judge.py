"""The LLM judge: what it is shown, and how its replies are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest

from r1pipe.errors import StageError
from r1pipe.generate.protocol import Request, Sampled, Sampling
from r1pipe.records import FinishReason, Problem, Verdict
from r1pipe.verify.llm_judge import (
    completer,
    default_template,
    judge_many,
    judge_prompt,
    parse_reply,
)

PROBLEM = Problem("p", "law", "Who may {sign}?", "the {guardian}", checker="judge")
TEMPLATE = "Q {question} R {reference} P {prediction} then {x}"

REPLIES = [
    ('It agrees. {"analysis": "same", "correctness": "correct"}', Verdict.CORRECT),
    ('{"analysis": "no", "correctness": "incorrect"}', Verdict.WRONG),
    ('```json\n{"analysis": "a {b} c", "correctness": "Correct"}\n```', Verdict.CORRECT),
    ('{"correctness": "incorrect"} so at last {"correctness": "correct"}', Verdict.CORRECT),
    ('{"correctness": "correct"} in short: {no json}', Verdict.CORRECT),
    ('{"correctness": "partly"}', Verdict.CRASHED),
    ('{"correctness": true}', Verdict.CRASHED),
    ("correct", Verdict.CRASHED),
    ('{"analysis": "cut off", "correct', Verdict.CRASHED),
    ("", Verdict.CRASHED),
    ("{" * 5000, Verdict.CRASHED),
]


@pytest.mark.parametrize(("reply", "verdict"), REPLIES)
def test_replies_are_read_by_their_last_json(reply: str, verdict: Verdict) -> None:
    assert parse_reply(reply) is verdict


def test_the_judge_sees_the_answer_part_and_never_the_thought() -> None:
    prompt = judge_prompt(TEMPLATE, PROBLEM, "<think>secret</think> The {guardian}.")
    assert prompt == "Q Who may {sign}? R the {guardian} P The {guardian}. then {x}"


def test_fields_in_an_answer_are_not_filled_again() -> None:
    prompt = judge_prompt(TEMPLATE, PROBLEM, "<think>a</think> {reference}")
    assert prompt is not None
    assert "P {reference} then" in prompt


def test_a_template_without_a_field_is_an_error() -> None:
    with pytest.raises(StageError, match=r"no \{reference\} in it"):
        judge_prompt("{question} {prediction}", PROBLEM, "x")


def test_the_shipped_template_has_every_field() -> None:
    prompt = judge_prompt(default_template(), PROBLEM, "<think>a</think> The guardian.")
    assert prompt is not None
    for part in ("Who may {sign}?", "the {guardian}", "The guardian.", '"correctness"'):
        assert part in prompt


def test_what_needs_no_judge_is_not_asked() -> None:
    asked: list[str] = []

    def complete(prompts: list[str]) -> list[str]:
        asked.extend(prompts)
        return ['{"correctness": "correct"}' for _ in prompts]

    no_gold = Problem("n", "law", "?", " ")
    pairs = [
        (PROBLEM, "<think>a"),
        (PROBLEM, "<think>a</think> yes"),
        (no_gold, "<think>a</think> yes"),
        (PROBLEM, "<think>a</think> no"),
    ]
    judged = judge_many(complete, pairs, TEMPLATE)
    assert [reply.verdict for reply in judged] == [
        Verdict.NO_ANSWER,
        Verdict.CORRECT,
        Verdict.GOLD_UNUSABLE,
        Verdict.CORRECT,
    ]
    assert len(asked) == 2
    assert judged[1].reply == '{"correctness": "correct"}'  # kept as it came
    assert judged[1].prompt == asked[0]


class Letters:
    """A tokenizer of one token per character, with a trivial chat template."""

    def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> list[int]:
        return [ord(char) for char in messages[0]["content"]]

    def decode(self, token_ids: list[int], skip_special_tokens: bool) -> str:
        return "".join(map(chr, token_ids))


class Echo:
    """A generator that answers each prompt with its upper case, last request first."""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Sampled]:
        for request in reversed(requests):
            ids = [ord(chr(token).upper()) for token in request.prompt_ids]
            yield Sampled(request.index, ids, [0.0] * len(ids), FinishReason.STOP)

    def load_weights(self, tensors: Iterable[tuple[str, Any]]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


def test_replies_of_any_generator_come_back_in_order() -> None:
    complete = completer(Echo(), Letters(), Sampling(temperature=0.0))
    assert complete(["abc", "de"]) == ["ABC", "DE"]
