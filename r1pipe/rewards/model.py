"""What a reward model is to a method, and the text that it reads; the stage brings the model.

Helpfulness is scored on the final summary only, so that the thought stays free; harmlessness on
the whole completion, thought included (arXiv:2501.12948v1, section 2.3.4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from r1pipe.chat import split_completion
from r1pipe.records import Problem

RewardFn = Callable[[Sequence[tuple[Problem, str]]], list[float]]
"""(problem, completion text) pairs -> rewards in [0, 1]: a reward model as a function."""


def helpfulness_text(text: str) -> str:
    """Return the final summary; an empty string if the thought was never closed."""
    return (split_completion(text).answer_part or "").strip()


def safety_text(text: str) -> str:
    """Return the whole completion: a harmful thought is a harmful completion."""
    return text
