"""DAPO's soft overlong penalty in tokens (arXiv:2503.14476, Eq. 13), shifted into [0, 1]."""

from __future__ import annotations

from r1pipe.records import Problem
from r1pipe.rewards.completion import Completion
from r1pipe.rewards.length import soft_overlong

BUFFER = 5
"""The last fifth of `max_tokens` is the buffer: DAPO has 4,096 of 20,480."""


def overlong(problem: Problem, completion: Completion) -> float:
    """Return 1.0 up to four fifths of `max_tokens`, falling to 0.0 for a completion that is cut.

    DAPO has 0 and -1 in their place; a constant has no part in an advantage of a group.
    """
    limit = completion.max_tokens
    return soft_overlong(completion.num_tokens, limit, limit // BUFFER) if limit else 1.0
