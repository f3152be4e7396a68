"""An LLM judge for problems that no rule can check (arXiv:2501.12948v2, Listing 4).

The judge is shown the question, the reference and the answer part of a completion, never the
thought (`judge_form`), and replies with an analysis and then JSON with `correctness`
(`judge_reply`). What it is shown and what it says is data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from r1pipe.candidates.judge_reply import TOO_LONG, read_reply
from r1pipe.chat import AnyFormat, as_format
from r1pipe.generate.protocol import Request, Sampled
from r1pipe.generate.uniforms import request_seeds
from r1pipe.models.interfaces import Tokenizer
from r1pipe.models.prompts import encode_prompt, opened_thought
from r1pipe.models.tokenizer import decoder
from r1pipe.records import FinishReason, Verdict
from r1pipe.verify.reading.recast import recast

LENGTH = FinishReason.LENGTH


@dataclass(frozen=True, slots=True)
class Reply:
    """A judge's reply and the verdict read from it; `fault` is the reason for none, else ""."""

    verdict: Verdict
    fault: str
    text: str
    seed: int
    num_tokens: int
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class Question:
    """One question to the judge, about one candidate."""

    candidate_id: str
    task: str
    text: str


@dataclass(frozen=True)
class Judge:
    """Questions as requests to a language model, and its completions as replies."""

    tokenizer: Tokenizer
    votes: int
    """Replies to each question."""
    seed: int
    max_positions: int | None
    """Where the model's context ends; None if unknown."""
    format: AnyFormat = "chat"
    """Of the judge's prompts and replies."""

    def requests(self, questions: Sequence[Question]) -> list[Request]:
        """Return the requests for the replies to some questions, by question and vote.

        A request's seed is made of `seed`, the candidate's id and the vote's number. A question
        that fills the context is not put: some backends end the whole unit at it.
        """
        requests: list[Request] = []
        for place, question in enumerate(questions):
            prompt = tuple(encode_prompt(self.tokenizer, question.text, self.format))
            if self.max_positions is None or len(prompt) < self.max_positions:
                requests += [
                    Request(prompt, seed, place * self.votes + vote)
                    for vote, seed in enumerate(self._seeds(question))
                ]
        return requests

    def reply(self, request: Request, sampled: Sampled) -> Reply:
        """Return the reply that a completion is."""
        reason = sampled.finish_reason
        text = self._opened + self._decode(sampled.written_ids)
        tags = replace(as_format(self.format), answer="boxed")  # JSON stays as it is
        verdict, fault = read_reply(recast(text, tags), reason)
        return Reply(verdict, fault, text, request.seed, len(sampled.token_ids), reason)

    def replies(
        self, questions: Sequence[Question], found: Mapping[int, Reply]
    ) -> list[list[Reply]]:
        """Return the replies to each question, given those of its requests by their index."""
        return [
            [
                found.get(place * self.votes + vote)
                or Reply(Verdict.CRASHED, TOO_LONG, "", seed, 0, LENGTH)
                for vote, seed in enumerate(self._seeds(question))
            ]
            for place, question in enumerate(questions)
        ]

    @cached_property
    def _opened(self) -> str:
        return opened_thought(self.tokenizer, self.format)

    @cached_property
    def _decode(self) -> Callable[[list[int]], str]:
        return decoder(self.tokenizer)

    def _seeds(self, question: Question) -> list[int]:
        return request_seeds(self.seed, question.candidate_id, numbers=range(self.votes))


def majority(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict of more than half of the votes, or CRASHED."""
    counts = {verdict: verdicts.count(verdict) for verdict in (Verdict.CORRECT, Verdict.WRONG)}
    return next((v for v, count in counts.items() if 2 * count > len(verdicts)), Verdict.CRASHED)
