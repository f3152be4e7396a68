"""An LLM judge for problems that no rule can check (arXiv:2501.12948v2, Listing 4).

The judge is shown the question, the reference and the answer part of the completion, never the
thought, and replies with an analysis and then JSON with `correctness`. It works over any generator
backend; its template is a file, whose text belongs in the key of the stage that uses it; its raw
replies are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from r1pipe.chat import Format, split_completion
from r1pipe.errors import StageError
from r1pipe.generate.protocol import Generator, Request, Sampling
from r1pipe.models.prompts import encode_prompt
from r1pipe.records import Problem, Verdict

FIELDS = ("question", "reference", "prediction")
MAX_PREDICTION_CHARS = 20_000
_VERDICTS = {"correct": Verdict.CORRECT, "incorrect": Verdict.WRONG}


@dataclass(frozen=True, slots=True)
class JudgeReply:
    """What a judge said of one completion, in its own words, and the verdict read from it."""

    verdict: Verdict
    reply: str
    prompt: str


def default_template() -> str:
    """Return the template that ships with r1pipe."""
    return (resources.files("r1pipe.verify") / "llm_judge.txt").read_text("utf-8")


def judge_prompt(template: str, problem: Problem, text: str) -> str | None:
    """Fill the template for one completion; None where it has no answer part to judge.

    Values are put in as they are: braces in an answer are no fields.
    """
    missing = [name for name in FIELDS if f"{{{name}}}" not in template]
    if missing:
        raise StageError(f"judge template: no {{{missing[0]}}} in it; it must have all of {FIELDS}")
    part = (split_completion(text).answer_part or "").strip()
    if not part:
        return None
    values = {
        "question": problem.prompt,
        "reference": problem.gold,
        "prediction": part[-MAX_PREDICTION_CHARS:],
    }
    pieces = template.split("{")
    filled = [pieces[0]]
    for piece in pieces[1:]:
        name, closer, rest = piece.partition("}")
        filled.append(values[name] + rest if closer and name in values else "{" + piece)
    return "".join(filled)


def parse_reply(reply: str) -> Verdict:
    """Return the verdict of a reply's last JSON object that has `correctness`.

    A reply without one, or with another word in it, is the judge's failure, not the answer's.
    """
    decoder = json.JSONDecoder()
    end = len(reply)
    while (start := reply.rfind("{", 0, end)) >= 0:
        end = start
        if len(reply) - start > MAX_PREDICTION_CHARS:
            break
        try:
            value, _ = decoder.raw_decode(reply, start)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and "correctness" in value:
            return _VERDICTS.get(str(value["correctness"]).strip().lower(), Verdict.CRASHED)
    return Verdict.CRASHED


def judge_many(
    complete: Callable[[list[str]], list[str]],
    pairs: Sequence[tuple[Problem, str]],
    template: str,
) -> list[JudgeReply]:
    """Judge completions in order; `complete` turns prompts into replies, one for each."""
    prompts = [
        judge_prompt(template, problem, text) if problem.gold.strip() else None
        for problem, text in pairs
    ]
    asked = [prompt for prompt in prompts if prompt is not None]
    replies = iter(complete(asked)) if asked else iter(())
    judged = []
    for (problem, _), prompt in zip(pairs, prompts, strict=True):
        if not problem.gold.strip():
            judged.append(JudgeReply(Verdict.GOLD_UNUSABLE, "", ""))
        elif prompt is None:
            judged.append(JudgeReply(Verdict.NO_ANSWER, "", ""))
        else:
            reply = next(replies)
            judged.append(JudgeReply(parse_reply(reply), reply, prompt))
    return judged


def completer(
    generator: Generator,
    tokenizer: Any,
    sampling: Sampling,
    *,
    seed: int = 0,
    fmt: Format = "chat",
) -> Callable[[list[str]], list[str]]:
    """Return a function from prompts to replies over any generator backend."""

    def complete(prompts: list[str]) -> list[str]:
        requests = [
            Request(tuple(encode_prompt(tokenizer, prompt, fmt)), seed + index, index)
            for index, prompt in enumerate(prompts)
        ]
        replies = [""] * len(prompts)
        for sampled in generator.generate(requests, sampling):
            replies[sampled.index] = str(
                tokenizer.decode(sampled.token_ids, skip_special_tokens=True)
            )
        return replies

    return complete
