"""Format rewards: is the completion laid out as its format says? Never whether it is right.

All checks are anchored at both ends and linear in the text's length.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from r1pipe.chat import (
    ANSWER_CLOSE,
    ANSWER_OPEN,
    CHAT,
    THINK_CLOSE,
    THINK_OPEN,
    AnyFormat,
    Format,
    as_format,
)
from r1pipe.records import Problem
from r1pipe.verify.reading.extract import boxes

BOXLESS_CHECKERS = frozenset({"contains", "refusal", "judge", "code"})
"""Checkers of problems whose summary is free text, with no answer to box."""

_TAGS = (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)


def format_zero(problem: Problem, text: str) -> float:
    """Return 1.0 for exactly `<think>..</think> <answer>..</answer>`, both non-empty.

    Whitespace may be before, between and after the two (a prompt ends `Assistant:`, so that the
    natural next character is a space); nothing else may.
    """
    text = text.lstrip()
    if not text.startswith(THINK_OPEN) or any(text.count(tag) != 1 for tag in _TAGS):
        return 0.0
    thought, _, rest = text.removeprefix(THINK_OPEN).partition(THINK_CLOSE)
    between, _, rest = rest.partition(ANSWER_OPEN)
    answer, closer, after = rest.partition(ANSWER_CLOSE)
    is_laid_out = bool(closer) and not between.strip() and not after.strip()
    return float(is_laid_out and bool(thought.strip()) and bool(answer.strip()))


def format_chat(problem: Problem, text: str) -> float:
    """Return 1.0 for one closed thought, then a summary with one box, and no answer tag.

    Problems whose checker reads free text need no box.
    """
    return format_own(problem, text, CHAT)


def format_own(problem: Problem, text: str, fmt: Format) -> float:
    """Return 1.0 for one closed thought (none if the format has none), then a summary whose answer
    stands where the format says."""
    summary = text
    if fmt.think is not None:
        opener, closer = fmt.think
        if not text.startswith(opener) or text.count(opener) != 1 or text.count(closer) != 1:
            return 0.0
        thought, _, summary = text.removeprefix(opener).partition(closer)
        if not thought.strip():
            return 0.0
    elif THINK_OPEN in text or THINK_CLOSE in text:
        return 0.0
    return float(bool(summary.strip()) and _has_answer(problem, summary, text, fmt))


def _has_answer(problem: Problem, summary: str, text: str, fmt: Format) -> bool:
    if fmt.answer == "last-line":
        return True
    if fmt.answer == "tag":
        if any(text.count(tag) != 1 for tag in (ANSWER_OPEN, ANSWER_CLOSE)):
            return False
        answer, closer, after = summary.partition(ANSWER_OPEN)[2].partition(ANSWER_CLOSE)
        return bool(closer) and bool(answer.strip()) and not after.strip()
    if any(tag in text for tag in (ANSWER_OPEN, ANSWER_CLOSE)):
        return False
    if problem.checker in BOXLESS_CHECKERS:
        return True
    return summary.count("\\boxed") == 1 and len(boxes(summary)) == 1


def format_reward(fmt: AnyFormat) -> Callable[[Problem, str], float]:
    """Return the reward of a format."""
    fmt = as_format(fmt)
    return format_zero if fmt.template == "r1-zero" else partial(format_own, fmt=fmt)
