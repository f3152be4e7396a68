"""Format rewards: is the completion laid out as its format says? Never whether it is right.

All checks are anchored at both ends and linear in the text's length.
"""

from __future__ import annotations

from collections.abc import Callable

from r1pipe.chat import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN, Format
from r1pipe.records import Problem
from r1pipe.verify.answers.extract import boxes

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
    if not text.startswith(THINK_OPEN) or any(tag in text for tag in (ANSWER_OPEN, ANSWER_CLOSE)):
        return 0.0
    if text.count(THINK_OPEN) != 1 or text.count(THINK_CLOSE) != 1:
        return 0.0
    thought, _, summary = text.removeprefix(THINK_OPEN).partition(THINK_CLOSE)
    if not thought.strip() or not summary.strip():
        return 0.0
    if problem.checker in BOXLESS_CHECKERS:
        return 1.0
    return float(summary.count("\\boxed") == 1 and len(boxes(summary)) == 1)


FORMATS: dict[Format, Callable[[Problem, str], float]] = {
    "r1-zero": format_zero,
    "chat": format_chat,
}
"""The reward of each format."""
