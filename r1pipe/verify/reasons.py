"""Why a completion was not found correct, in words for its author: one short line."""

from __future__ import annotations

from r1pipe.chat import CHAT, AnyFormat, split_completion
from r1pipe.records import FinishReason, Verdict
from r1pipe.text import excerpt
from r1pipe.verify.reading.extract import extract_answer
from r1pipe.verify.reading.recast import recast

MAX_ANSWER_CHARS = 60
MAX_PROMPT_CHARS = 160
MAX_COMPLETION_CHARS = 320


def reason_of(text: str, gold: str, verdict: str, finish_reason: str, fmt: AnyFormat = CHAT) -> str:
    """Return the verdict with what decided it: the answer that was read, or why there is none."""
    text = recast(text, fmt)
    if verdict == Verdict.NO_ANSWER:
        return f"no answer: {why_no_answer(text, finish_reason)}"
    answer = extract_answer(text)
    if answer is None:
        return verdict
    read = f"{verdict}: '{excerpt(answer, MAX_ANSWER_CHARS)}'"
    return f"{read}, not '{excerpt(gold, MAX_ANSWER_CHARS)}'" if verdict == "wrong" else read


def why_no_answer(text: str, finish_reason: str) -> str:
    """Return why no answer was read in a completion."""
    is_cut = finish_reason == FinishReason.LENGTH
    if not text.strip():
        return "the completion is empty"
    if split_completion(text).answer_part is None:
        end = "the completion was cut off at max_tokens" if is_cut else "the completion ended"
        return f"{end} before the thought was closed"
    if is_cut:
        return "the completion was cut off at max_tokens before an answer"
    return "there is no box, answer tag or final phrase"


def example_lines(prompt: str, text: str, reason: str) -> list[str]:
    """Return one completion as an example: prompt, text and reason, each on a line of its own."""
    return [
        f"  prompt: {excerpt(prompt, MAX_PROMPT_CHARS)}",
        f"  completion: {excerpt(text, MAX_COMPLETION_CHARS)}",
        f"  {reason}",
    ]
