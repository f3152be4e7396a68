"""Canned completions: a generator that answers at once, without a model.

They are drawn by a hash of each request's seed: three in ten are right, readable and new; others
are wrong, repeat another word for word, have no answer, code, two languages, a long paragraph, a
loop, or no end. A share of the gold answers needs algebra.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from r1pipe.chat import boxed
from r1pipe.generate.protocol import Request, Sampled, SamplingParams
from r1pipe.models.prompts import encode_prompt
from r1pipe.models.tokenizer import train_tokenizer
from r1pipe.records import FinishReason, Problem

SAMPLES = 16
"""Completions of each problem."""
BODIES = 512
ALGEBRA = 0.02
"""Share of problems whose gold answer is an expression."""
WORDS = (
    "so we first take the sum and then the rest of it is what remains after both sides are halved"
    " which gives another number that must be even because all terms before it were even too"
)
OUTCOMES = {
    "right": 0.26, "again": 0.08, "wrong": 0.50, "no_answer": 0.04, "code": 0.02,
    "mixed": 0.03, "loop": 0.02, "long": 0.02, "cut": 0.03,
}  # fmt: skip
ODD = {
    "code": " ```python\nprint(1)\n```",
    "mixed": " 所以我们先求和然后把剩下的部分除以二得到另一个数字因为它一定是偶数" * 3,
    "loop": " and then again" * 12,
    "long": " word" * 900,
}


def canned_problem(number: int) -> Problem:
    """Return one of any number of problems."""
    rng = random.Random(number)
    value = rng.randrange(2, 1000)
    if rng.random() < ALGEBRA:
        gold, text = f"{value}x+{value + 1}", f"Expand {value}(x+1)+1 (number {number})"
        return Problem(f"p{number}", "algebra", text, gold, level=3)
    text = f"What is {value - 1} plus 1? Say why. (number {number})"
    return Problem(f"p{number}", "sum", text, str(value), checker="math", level=1)


class Canned:
    """Answers requests at once, from token ids that were made beforehand."""

    def __init__(self) -> None:
        rng = random.Random(0)
        texts = [" ".join(rng.choices(WORDS.split(), k=90)) for _ in range(BODIES)]
        self.tokenizer = train_tokenizer([*texts, "0123456789 x+()\\boxed{}"], 600)
        self.bodies = [self.encode(f"<think>\n{text}") for text in texts]
        self.parts = {name: self.encode(text) for name, text in ODD.items()}
        self.close_ids = self.encode("\n</think>\n\nIt is ")
        self.answers: dict[str, list[int]] = {}
        self.golds: dict[tuple[int, ...], str] = {}
        self.names = list(OUTCOMES)
        self.weights = list(OUTCOMES.values())

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids

    def learn(self, problems: Sequence[Problem]) -> None:
        """Take in the gold answers of the problems that will be asked for next."""
        self.golds = {
            tuple(encode_prompt(self.tokenizer, p.prompt, "chat")): p.gold for p in problems
        }

    def answer(self, text: str) -> list[int]:
        if text not in self.answers:
            self.answers[text] = [*self.encode(boxed(text)), self.tokenizer.eos_token_id]
        return self.answers[text]

    def generate(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Sampled]:
        for request in requests:
            yield self.sampled(request)

    def sampled(self, request: Request) -> Sampled:
        rng = random.Random(request.seed)
        outcome = rng.choices(self.names, self.weights)[0]
        gold = self.golds[request.prompt_ids]
        number = 0 if outcome == "again" else 1 + rng.randrange(BODIES - 1)
        ids = [*self.bodies[number], *self.parts.get(outcome, ())]
        reason = FinishReason.STOP
        if outcome == "cut":
            reason = FinishReason.LENGTH
        elif outcome == "no_answer":
            ids += [*self.close_ids, self.tokenizer.eos_token_id]
        else:
            is_wrong = outcome == "wrong"
            ids += [*self.close_ids, *self.answer(self.given(gold, is_wrong, rng))]
        return Sampled(request.index, ids, [], reason)

    @staticmethod
    def given(gold: str, is_wrong: bool, rng: random.Random) -> str:
        """Return an answer: an expression in other words, or another number."""
        left, plus, right = gold.partition("x+")
        if plus:
            return (
                f"{int(right) + is_wrong}+{left}x"
                if rng.random() < 0.5
                else f"{left}(x+1)+{1 + is_wrong}"
            )
        return str(int(gold) + rng.randrange(1, 9)) if is_wrong else gold

    def load_weights(self, tensors: Any) -> None:
        return

    def sleep(self) -> None:
        return

    def close(self) -> None:
        return
