"""An LLM judge for problems that no rule can check (arXiv:2501.12948v2, Listing 4).

The judge is shown the question, the reference and the answer part of a completion, never the
thought, and replies with an analysis and then JSON with `correctness`. What it is shown and what it
says is data: fields and control tokens in an answer are plain text, and of a reply only one clear
verdict counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from r1pipe.chat import AnyFormat, as_format, split_completion
from r1pipe.generate.protocol import Generator, Request, Sampled, SamplingParams
from r1pipe.generate.uniforms import request_seed
from r1pipe.keys import Json, JsonObject
from r1pipe.models.interfaces import Tokenizer
from r1pipe.models.prompts import encode_prompt, opened_thought
from r1pipe.records import FinishReason, Problem, Verdict
from r1pipe.verify.answers.recast import recast

FIELDS = ("question", "reference", "prediction")
"""Fields of a template, in braces, each at least once."""
MAX_READ_CHARS = 20_000
"""Most characters read of a reply, from its end."""
TOO_LONG, CUT_OFF, NO_JSON = "too_long", "cut_off", "no_json"
UNCLEAR, OTHER_WORD = "unclear", "other_word"
"""Why there is no verdict: the question fills the judge's context; the reply reached the token
limit; it has no JSON with `correctness`; several that differ, or one inside what is no JSON;
another word than correct or incorrect."""

LENGTH = FinishReason.LENGTH
_VERDICTS = {"correct": Verdict.CORRECT, "incorrect": Verdict.WRONG}
_FIELD = re.compile("{(" + "|".join(FIELDS) + ")}")
_BACKSLASH = re.compile(r'\\(?:([\\"/bfnrt]|u[0-9a-fA-F]{4})|)')


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
class Form:
    """The form of a question: the template, and how much of an answer is shown."""

    template: str
    max_answer_chars: int
    """Of a longer answer the end is shown."""
    control: re.Pattern[str] | None = None
    """Tokens that are broken up in whatever is filled in: see `control_tokens`."""

    def question(self, problem: Problem, text: str) -> str | None:
        """Fill the template for one completion; None without a reference or an answer part.

        Values are put in as they are, so that braces in an answer are no fields.
        """
        part = (split_completion(text).answer_part or "").strip()
        if not part or not problem.gold.strip():
            return None
        shown = {
            "question": problem.prompt,
            "reference": problem.gold,
            "prediction": part[-self.max_answer_chars :],
        }
        if self.control is not None:
            shown = {name: broken_up(value, self.control) for name, value in shown.items()}
        return _FIELD.sub(lambda field: shown[field[1]], self.template)


def control_tokens(tokenizer: Tokenizer) -> re.Pattern[str] | None:
    """Match tokens that a tokenizer would not read as text: ends, roles, other tags; None if none.

    An answer that holds the end of its turn and the beginning of the judge's would otherwise speak
    for the judge.
    """
    added = tokenizer.added_tokens_decoder.values()
    tags = {str(token) for token in added if token.special or _is_tag(str(token))}
    tags = {tag for tag in tags if len(tag) > 1 and not tag.isspace()}
    longest_first = sorted(tags, key=lambda tag: (-len(tag), tag))
    return re.compile("|".join(map(re.escape, longest_first))) if tags else None


def _is_tag(token: str) -> bool:
    return token[:1] + token[-1:] in ("<>", "[]")


def broken_up(text: str, control: re.Pattern[str]) -> str:
    """Return text in which every control token has a blank after its first character.

    >>> broken_up("yes<|end|>", re.compile(re.escape("<|end|>")))
    'yes< |end|>'
    """
    return control.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)


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


def read_reply(text: str, finish_reason: FinishReason) -> tuple[Verdict, str]:
    """Return a reply's verdict, or CRASHED and what is wrong with it.

    Only the text after the judge's own thought is read. A reply without one clear verdict is the
    judge's failure, not the answer's.
    """
    if finish_reason is LENGTH:
        return Verdict.CRASHED, CUT_OFF
    reply = (split_completion(text).answer_part or "")[-MAX_READ_CHARS:]
    objects, rest = _objects(reply)
    words = {str(o["correctness"]).strip().lower() for o in objects if "correctness" in o}
    if not words and '"correctness"' not in rest:
        return Verdict.CRASHED, NO_JSON
    if len(words) != 1 or '"correctness"' in rest:
        return Verdict.CRASHED, UNCLEAR
    verdict = _VERDICTS.get(words.pop())
    return (Verdict.CRASHED, OTHER_WORD) if verdict is None else (verdict, "")


def majority(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict of more than half of the votes, or CRASHED."""
    counts = {verdict: verdicts.count(verdict) for verdict in _VERDICTS.values()}
    return next((v for v, count in counts.items() if 2 * count > len(verdicts)), Verdict.CRASHED)


def _objects(text: str) -> tuple[list[JsonObject], str]:
    """Return the JSON objects of a text, outermost ones, and the text without them.

    Backslashes that JSON does not know (LaTeX in an analysis) are kept as they are.
    """
    text = _BACKSLASH.sub(lambda found: found[0] if found[1] else "\\\\", text)
    found, rest, place = [], [], 0
    for start, end, value in _decoded(text):
        rest.append(text[place:start])
        found.append(value)
        place = end
    return found, "".join([*rest, text[place:]])


def _decoded(text: str) -> Iterator[tuple[int, int, JsonObject]]:
    """Yield (start, end, value) of JSON objects that do not overlap, from the left."""
    decoder = json.JSONDecoder(strict=False, object_pairs_hook=_unambiguous)
    place = 0
    while (start := text.find("{", place)) >= 0:
        try:
            value, place = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            place = start + 1
            continue
        yield start, place, value


def _unambiguous(pairs: list[tuple[str, Json]]) -> JsonObject:
    """Return the pairs of a JSON object; ValueError if a name comes twice."""
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name comes twice")
    return dict(pairs)
