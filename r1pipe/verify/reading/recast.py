"""Completions of other formats, written as the recipe's own are: what verifiers and rewards read.

Nothing else has to know how a user's format marks its thought and its answer.
"""

from __future__ import annotations

from r1pipe.chat import (
    ANSWER_CLOSE,
    ANSWER_OPEN,
    HOUSE,
    THINK_CLOSE,
    THINK_OPEN,
    AnyFormat,
    as_format,
    boxed,
    split_completion,
)
from r1pipe.verify.reading.extract import find_answer


def recast(text: str, fmt: AnyFormat) -> str:
    """Return a completion with the recipe's think tags, and its answer where it is looked for.

    A text of the recipe's own formats is returned as it is. A thought that is not closed stays so,
    also one that a chat template has opened with the recipe's tag: such a completion has no answer.
    """
    fmt = as_format(fmt)
    has_house_thought = fmt.think is None or fmt.think == HOUSE
    if has_house_thought and (fmt.answer == "boxed" or fmt.template == "r1-zero"):
        return text
    parts = split_completion(text, fmt.think or HOUSE)
    is_cut = text.startswith(THINK_OPEN) and split_completion(text).answer_part is None
    if parts.answer_part is None or is_cut:
        return THINK_OPEN + _without_tags(text)
    said = parts.answer_part if has_house_thought else _without_tags(parts.answer_part)
    if fmt.answer == "last-line":
        said = _last_line_boxed(said)
    if fmt.answer == "tag":
        said = _tag_alone(said)
    if parts.thought is None:
        return said
    return f"{THINK_OPEN}{_without_tags(parts.thought)}{THINK_CLOSE}{said}"


def _without_tags(text: str) -> str:
    return text.replace(THINK_OPEN, "").replace(THINK_CLOSE, "")


def _last_line_boxed(said: str) -> str:
    """Put the answer on the last line into a box.

    A line that says it in a box, a tag or a phrase gives that; else the whole line is the answer.
    """
    head, _, line = said.rstrip().rpartition("\n")
    line = line.strip().strip("*").strip()
    if not line:
        return said
    return f"{head}\nAnswer: {boxed(find_answer(line).answer or line)}"


def _tag_alone(said: str) -> str:
    """Return from the last answer tag to its end; all of it if there is none."""
    close = said.rfind(ANSWER_CLOSE)
    start = said.rfind(ANSWER_OPEN, 0, max(close, 0))
    return said[start : close + len(ANSWER_CLOSE)] if start >= 0 else said
