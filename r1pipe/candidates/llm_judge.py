"""An LLM judge for problems that no rule can check (arXiv:2501.12948v2, Listing 4).

The judge is shown the question, the reference and the answer part of a completion, never the
thought (`judge_form`), and replies with an analysis and then JSON with `correctness`
(`judge_reply`). What it is shown and what it says is data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from r1pipe.candidates.judge_reply import TOO_LONG, read_reply
from r1pipe.chat import AnyFormat, as_format
from r1pipe.generate.protocol import Generator, Request, Sampled, SamplingParams
from r1pipe.generate.uniforms import request_seed
from r1pipe.models.interfaces import Tokenizer
from r1pipe.models.prompts import encode_prompt, opened_thought
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


@dataclass(frozen=True, slots=True)
class Judge:
    """A language model as a judge, on any generator backend."""

    generator: Generator
    tokenizer: Tokenizer
    sampling: SamplingParams
    votes: int
    """Replies to each question."""
    seed: int
    max_positions: int | None
    """Where the model's context ends; None if unknown."""
    format: AnyFormat = "chat"
    """Of the judge's prompts and replies."""

    def ask(self, questions: Sequence[Question]) -> list[list[Reply]]:
        """Ask the judge; return the replies to each question, in order.

        A request's seed is made of `seed`, the candidate's id and the vote's number. A question
        that fills the context is not put: some backends end the whole unit at it.
        """
        requests, replies = [], list[list[Reply]]()
        for question in questions:
            prompt = tuple(encode_prompt(self.tokenizer, question.text, self.format))
            parts = self.seed, question.candidate_id
            seeds = [request_seed(*parts, vote) for vote in range(self.votes)]
            replies.append([Reply(Verdict.CRASHED, TOO_LONG, "", s, 0, LENGTH) for s in seeds])
            if self.max_positions is None or len(prompt) < self.max_positions:
                first = (len(replies) - 1) * self.votes
                requests += [Request(prompt, seed, first + i) for i, seed in enumerate(seeds)]
        opened = opened_thought(self.tokenizer, self.format) if requests else ""
        for sampled in self.generator.generate(requests, self.sampling) if requests else ():
            place, vote = divmod(sampled.index, self.votes)
            replies[place][vote] = self._reply(sampled, replies[place][vote].seed, opened)
        return replies

    def _reply(self, sampled: Sampled, seed: int, opened: str) -> Reply:
        ids, reason = sampled.token_ids, sampled.finish_reason
        text = opened + str(self.tokenizer.decode(ids if reason is LENGTH else ids[:-1]))
        tags = replace(as_format(self.format), answer="boxed")  # JSON stays as it is
        verdict, fault = read_reply(recast(text, tags), reason)
        return Reply(verdict, fault, text, seed, len(ids), reason)


def majority(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict of more than half of the votes, or CRASHED."""
    counts = {verdict: verdicts.count(verdict) for verdict in (Verdict.CORRECT, Verdict.WRONG)}
    return next((v for v, count in counts.items() if 2 * count > len(verdicts)), Verdict.CRASHED)
