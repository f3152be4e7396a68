"""Texts tokenized together: the tokens of each by itself, and no call for each."""

from __future__ import annotations

import random
import threading
from array import array
from collections.abc import Sequence
from typing import Any

import pytest
from chat_templates import FAMILIES, tokenizer_of

from r1pipe.chat import CHAT
from r1pipe.models.many_texts import TEXTS_AT_ONCE, ManyTexts
from r1pipe.records import Message
from r1pipe.train.conversations import TurnEncoder
from r1pipe.train.supervised import ROWS_AT_ONCE, sequences_of

TEMPLATED = [name for name, family in FAMILIES.items() if family.template]
WORDS = ["<think>", "\n", " 2", "1+1", "  ", "</think>", "x", "\u00e9", "\u4f60", " = "]


class Counting:
    """A tokenizer that notes how many texts each call gave it, and in which thread."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.calls: list[int] = []
        self.threads: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def __call__(self, text: str | list[str], **options: Any) -> Any:
        self.calls.append(1 if isinstance(text, str) else len(text))
        self.threads.add(threading.get_ident())
        return self.tokenizer(text, **options)


def texts(count: int) -> list[str]:
    rng = random.Random(count)
    return ["".join(rng.choices(WORDS, k=rng.randint(1, 30))) for _ in range(count)]


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_together_have_the_tokens_of_each_by_itself(family: str) -> None:
    tokenizer: Any = tokenizer_of(family)
    some = texts(200)
    many = ManyTexts(tokenizer, threads=3)
    many.prepare(some)
    alone = [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in some]
    assert [many.ids(text) for text in some] == alone


def test_prepared_texts_cost_a_call_for_many_and_threads_share_the_calls() -> None:
    counting: Any = Counting(tokenizer_of("chatml"))
    some = list(dict.fromkeys(texts(1000)))
    many = ManyTexts(counting, threads=2)
    many.prepare([*some, *some])
    for text in some:
        many.ids(text)
    assert counting.calls[0] == 1
    assert sum(counting.calls[1:]) == len(some)
    assert len(counting.calls) == 1 + -(-len(some) // TEXTS_AT_ONCE)
    assert threading.get_ident() in counting.threads
    assert len(counting.threads) > 1
    assert {type(each) for each in many._known.values()} == {array}, "four bytes a token"


def test_what_was_not_prepared_or_was_before_is_tokenized_when_it_is_asked_for() -> None:
    counting: Any = Counting(tokenizer_of("chatml"))
    many = ManyTexts(counting, threads=1)
    many.prepare(["one", "two"])
    many.prepare(["three"])
    before = len(counting.calls)
    assert many.ids("one") == many.ids("one")
    assert len(counting.calls) == before + 2
    many.ids("three").append(7)
    assert 7 not in many.ids("three"), "what was given is the asker's own"


def conversations(count: int) -> list[list[Message]]:
    said = texts(3 * count)
    rng = random.Random(3)
    found = []
    for number in range(count):
        first, second, third = said[3 * number : 3 * number + 3]
        turns = [Message("user", first), Message("assistant", second)]
        if rng.random() < 0.5:
            turns += [Message("user", third), Message("assistant", second + third)]
        found.append(turns)
    return found


@pytest.mark.parametrize("family", TEMPLATED)
@pytest.mark.parametrize("train_on", ["every-turn", "last-turn"])
def test_rows_encoded_together_are_those_encoded_one_by_one(family: str, train_on: Any) -> None:
    rows = [({"row": n}, CHAT, turns) for n, turns in enumerate(conversations(60))]
    skipped: dict[bool, list[tuple[Any, str]]] = {True: [], False: []}
    found: dict[bool, Any] = {}
    for together in (True, False):
        encoder = TurnEncoder(tokenizer_of(family))
        if not together:
            encoder.prepare = lambda *_: None  # type: ignore[method-assign]

        def skip(record: Any, reason: str, together: bool = together) -> None:
            skipped[together].append((record, reason))

        given: Sequence[Any] = rows
        found[together] = sequences_of(encoder, given, 200, skip, train_on)
    assert found[True] == found[False]
    assert skipped[True] == skipped[False]
    assert len(found[True][0]) > 20


def test_rows_of_a_run_are_not_tokenized_one_call_each() -> None:
    counting: Any = Counting(tokenizer_of("chatml"))
    count = ROWS_AT_ONCE + 10
    rows: Any = [
        ({}, CHAT, [Message("user", "q"), Message("assistant", f"answer {n}")])
        for n in range(count)
    ]
    encoder = TurnEncoder(counting)
    before = len(counting.calls)
    sequences, _ = sequences_of(encoder, rows, 200, lambda record, reason: None)
    assert len(sequences) == count
    said = len(counting.calls) - before - count  # a prompt each
    assert said < 60
