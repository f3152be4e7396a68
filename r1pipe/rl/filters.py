"""Filters of sampled completions: each says why a row is dropped, and none drops it in silence.

arXiv:2501.12948, section 2.3.3: thoughts with mixed languages, long paragraphs or code blocks are
dropped. No thresholds were published.
"""

from __future__ import annotations

from collections.abc import Mapping

from r1pipe.chat import Format, split_completion
from r1pipe.records import Completion, FinishReason, Problem, Verdict
from r1pipe.rewards import REWARDS
from r1pipe.rewards.language import language_share
from r1pipe.settings import Keep

MIN_REPEATED_CHARS = 8
CODE_FENCE = "```"


def decide(
    problem: Problem, completion: Completion, verdict: Verdict, keep: Keep, fmt: Format
) -> dict[str, bool]:
    """Return every filter's decision on one completion, by name: True passes."""
    thought = split_completion(completion.text).thought
    share = language_share(thought, problem.language) if thought is not None else None
    form = REWARDS["format_zero" if fmt == "r1-zero" else "format_chat"]
    return {
        "verdict": verdict is Verdict.CORRECT,
        "truncated": completion.finish_reason is not FinishReason.LENGTH,
        "format": form(problem, completion.text) == 1.0,
        "language": share is None or share >= keep.min_language_share,
        "paragraph": longest_paragraph(thought or "") <= keep.max_paragraph_chars,
        "code": keep.code_blocks or CODE_FENCE not in (thought or ""),
        "repetition": most_repeated(thought or "") <= keep.max_repeats,
    }


def is_kept(decisions: Mapping[str, bool]) -> bool:
    """Return whether every filter passed."""
    return all(decisions.values())


def longest_paragraph(text: str) -> int:
    """Return the characters of the longest paragraph (paragraphs end at blank lines)."""
    return max(map(len, text.split("\n\n")), default=0)


def most_repeated(text: str) -> int:
    """Return how often some block of at least eight characters follows itself without a gap.

    1 means never; `abcdefghabcdefgh` gives 2. Blocks of up to 64 characters are looked at.
    """
    most = 1
    for size in range(MIN_REPEATED_CHARS, min(64, len(text) // 2) + 1):
        matched = 0
        for i in range(len(text) - size):
            matched = matched + 1 if text[i] == text[i + size] else 0
            most = max(most, matched // size + 1)
    return most
