"""Filters of sampled completions; each gives the reason why it drops a row.

arXiv:2501.12948, section 2.3.3: thoughts with mixed languages, long paragraphs or code blocks are
dropped. No thresholds were published.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from r1pipe.chat import AnyFormat, split_completion
from r1pipe.records import FinishReason, Problem, Verdict
from r1pipe.rewards.format import format_reward
from r1pipe.rewards.language import language_share
from r1pipe.settings import Keep
from r1pipe.verify.reading.recast import recast

MIN_REPEATED_CHARS = 8
MAX_REPEATED_CHARS = 64
CODE_FENCE = "```"


def decide(
    problem: Problem,
    text: str,
    finish_reason: FinishReason,
    verdict: Verdict,
    keep: Keep,
    fmt: AnyFormat,
) -> dict[str, bool]:
    """Return every filter's decision on one completion, by name: True passes."""
    thought = split_completion(recast(text, fmt)).thought
    share = language_share(thought, problem.language) if thought is not None else None
    return {
        "verdict": verdict is Verdict.CORRECT,
        "truncated": finish_reason is not FinishReason.LENGTH,
        "format": format_reward(fmt)(problem, text) == 1.0,
        "language": share is None or share >= keep.min_language_share,
        "paragraph": longest_paragraph(thought or "") <= keep.max_paragraph_chars,
        "code": keep.code_blocks or CODE_FENCE not in (thought or ""),
        "repetition": not repeats_beyond(thought or "", keep.max_repeats),
    }


def is_kept(decisions: Mapping[str, bool]) -> bool:
    """Return whether every filter passed."""
    return all(decisions.values())


def longest_paragraph(text: str) -> int:
    """Return the characters of the longest paragraph (paragraphs end at blank lines)."""
    return max(map(len, text.split("\n\n")), default=0)


def repeats_beyond(text: str, max_repeats: int) -> bool:
    """Return whether some block of 8 to 64 characters follows itself without a gap more often.

    `abcdefghabcdefgh` has a block twice: beyond 1, not beyond 2. A block of n characters comes
    k + 1 times in a row where n x k characters in a row equal the one n places further on.
    """
    if text.isascii():
        chars = np.frombuffer(text.encode(), dtype=np.uint8)
    else:
        chars = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    return any(
        b"\x01" * (size * max_repeats) in (chars[:-size] == chars[size:]).tobytes()
        for size in _sizes_to_try(text, max_repeats)
    )


def _sizes_to_try(text: str, max_repeats: int) -> Iterator[int]:
    """Yield the sizes of blocks that may repeat; a few places of the text rule out all others.

    The equal characters of a repetition are at least 8 x `max_repeats` in a row, so that one of the
    places looked at is the start of eight of them, and those eight come again one block further on.
    """
    longest = min(MAX_REPEATED_CHARS, len(text) // (max_repeats + 1))
    found: set[int] = set()
    step = MIN_REPEATED_CHARS * (max_repeats - 1) + 1
    for place in range(0, len(text) - MIN_REPEATED_CHARS, step):
        start, end = place + MIN_REPEATED_CHARS, place + MIN_REPEATED_CHARS + longest
        part, again = text[place:start], start - 1
        while (again := text.find(part, again + 1, end)) >= 0:
            if (size := again - place) not in found:
                found.add(size)
                yield size
        if len(found) > longest - MIN_REPEATED_CHARS:
            return  # all of them
