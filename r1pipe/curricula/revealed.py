"""The part of a worked solution that a curriculum shows."""

from __future__ import annotations

import math

from r1pipe.chat import AnyFormat, render_completion
from r1pipe.models.interfaces import Tokenizer
from r1pipe.models.prompts import after_opened, encode_completion, opened_thought
from r1pipe.records import Problem
from r1pipe.tasks.world import summarise


def revealed_ids(
    tokenizer: Tokenizer, problem: Problem, share: float, fmt: AnyFormat
) -> tuple[int, ...]:
    """Return the first floor(share x m) of the m tokens of a problem's written solution.

    The end of sequence is not one of them. A problem without a solution has none to show.
    """
    if problem.solution is None or not share:
        return ()
    summary = summarise(problem.gold, problem.language)
    text = render_completion(problem.solution, problem.gold, fmt, summary)
    ids = encode_completion(tokenizer, after_opened(text, opened_thought(tokenizer, fmt), fmt))[:-1]
    return tuple(ids[: math.floor(share * len(ids))])
