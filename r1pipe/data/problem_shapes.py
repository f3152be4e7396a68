"""Rows of problem sets as they are published: which column is what, and what its values say.

A value has one right reading or none: lists, objects and bytes never become their `str()`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal

from r1pipe.records import Row
from r1pipe.verify.reading.extract import boxes

Gold = Literal["hash", "boxed", "column"]
PROMPT_NAMES = ("problem", "question", "prompt", "query", "messages")
ANSWER_NAMES = (
    *("answer", "final_answer", "expected_answer", "correct_answer", "gold_answer"),
    *("ground_truth", "gold", "golden", "answers"),
)
SOLUTION_NAMES = ("solution", "worked_solution", "rationale")
VERL_GOLD = "reward_model.ground_truth"
_ABSENT = object()
_USER_ROLES = frozenset({"system", "developer", "user", "human"})
_WHERE = {
    "hash": "the gold answer after #### in '{}'",
    "boxed": "the gold answer in the last box of '{}'",
    "column": "the gold answer in '{}'",
}


@dataclass(frozen=True, slots=True)
class ProblemColumns:
    """How a row becomes a problem; names may lead into objects, with dots between."""

    shape: str
    prompt: str
    answer: str
    gold: Gold = "column"
    solution: str | None = None
    """Column of a worked solution, where the answer's column holds the answer alone."""
    is_countdown: bool = False
    """The prompt is made of the numbers in `prompt` and the target in `answer`."""

    def used(self) -> list[str]:
        """Return the columns that are read."""
        return [self.prompt, self.answer, *([self.solution] if self.solution else [])]

    def as_text(self) -> str:
        """Say what is taken from where."""
        if self.is_countdown:
            return f"{self.shape}: numbers in '{self.prompt}', target in '{self.answer}'"
        solution = f", worked solution in '{self.solution}'" if self.solution else ""
        where = _WHERE[self.gold].format(self.answer)
        return f"{self.shape}: prompt in '{self.prompt}', {where}{solution}"


def detect(rows: Sequence[Row]) -> ProblemColumns | None:
    """Return the shape of a problem set by its first rows, or None if it is no known one."""
    if _has(rows, "prompt") and _has(rows, VERL_GOLD):
        return ProblemColumns("verl", "prompt", VERL_GOLD)
    if any(_is_countdown(row) for row in rows):
        return ProblemColumns("Countdown", "nums", "target", is_countdown=True)
    prompt, answer = _first(rows, PROMPT_NAMES), _first(rows, ANSWER_NAMES)
    solution = _first(rows, SOLUTION_NAMES)
    if prompt is None or (answer is None and solution is None):
        return None
    if answer is None:
        worked = str(solution)
        gold = _gold_in(rows, worked)
        name = "MATH" if gold == "boxed" else "GSM8K"
        return None if gold == "column" else ProblemColumns(name, prompt, worked, gold)
    found = ProblemColumns("problems with answers", prompt, answer, _gold_in(rows, answer))
    if found.gold != "column":
        return replace(found, shape="GSM8K" if found.gold == "hash" else "MATH")
    if _has(rows, "generations"):
        found = replace(found, shape="OpenR1-Math")
    return replace(found, solution=solution)


def _is_countdown(row: Row) -> bool:
    nums, target = row.get("nums"), row.get("target")
    return isinstance(nums, list) and isinstance(target, int) and bool(nums)


def _gold_in(rows: Iterable[Row], column: str) -> Gold:
    """Return where most answers of a column have the gold answer."""
    texts = [text for row in rows if isinstance(text := lookup(row, column), str)]
    if sum("####" in text for text in texts) * 2 > len(texts):
        return "hash"
    return "boxed" if sum(bool(boxes(text)) for text in texts) * 2 > len(texts) else "column"


def _has(rows: Iterable[Row], name: str) -> bool:
    return any(is_there(row, name) for row in rows)


def _first(rows: Sequence[Row], names: Sequence[str]) -> str | None:
    """Return the first of some names that rows have, as they spell it."""
    spelled = {column.lower(): column for row in reversed(rows) for column in row}
    return next((spelled[name] for name in names if name in spelled), None)


def is_there(row: Row, name: str) -> bool:
    """Return whether a row has a column, or a field inside one (`reward_model.ground_truth`)."""
    return lookup(row, name) is not _ABSENT


def lookup(row: Mapping[str, object], name: str) -> object:
    """Return the value of a column or of a field inside one; a mark of absence if there is none."""
    if name in row:
        return row[name]
    value: object = row
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return _ABSENT
        value = value[part]
    return value


def column_names(rows: Iterable[Row]) -> list[str]:
    """Return the columns of some rows, fields inside objects with dots, in order."""
    found: dict[str, None] = {}
    for row in rows:
        for name, value in row.items():
            found[name] = None
            if isinstance(value, dict):
                found.update(dict.fromkeys(f"{name}.{part}" for part in value))
    return list(found)


def prompt_text(value: object) -> tuple[str, str]:
    """Return (prompt, fault): a text, or the system and user turns of a conversation.

    Turns are joined by blank lines. The fault is "" if there is none.
    """
    if isinstance(value, str):
        return (value, "") if value.strip() else ("", "the prompt is empty")
    if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
        return _turns_text(value)
    return "", f"the prompt is {_kind(value)}"


def _turns_text(turns: Sequence[Mapping[str, object]]) -> tuple[str, str]:
    texts = []
    for turn in turns:
        role = turn.get("role", turn.get("from"))
        content = turn.get("content", turn.get("value"))
        if role not in _USER_ROLES:
            is_reply = role in ("assistant", "gpt")
            return "", "the prompt has " + (
                "an assistant's turn" if is_reply else "an unknown role"
            )
        if isinstance(content, list):
            parts = [part.get("text") for part in content if isinstance(part, dict)]
            is_text = len(parts) == len(content) and all(isinstance(part, str) for part in parts)
            content = "\n".join(str(part) for part in parts) if is_text else None
        if not isinstance(content, str):
            return "", "the prompt has a turn that is no text"
        texts.append(content)
    text = "\n\n".join(each for each in texts if each.strip())
    return (text, "") if text else ("", "the prompt is empty")


def answer_text(value: object) -> tuple[str, str]:
    """Return (answer, fault): a text, a number, or the only element of a list.

    The fault is "" if there is none.
    """
    if isinstance(value, list) and len(value) == 1 and not isinstance(value[0], list):
        value = value[0]
    if isinstance(value, str):
        return _only_element(value), ""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return "", f"the answer is {_kind(value)}"
    if not isinstance(value, int) and not math.isfinite(value):
        return "", "the answer is NaN or infinite"
    try:
        return (f"{value:f}" if isinstance(value, Decimal) else str(value)), ""
    except ValueError:  # more digits than Python turns into text
        return "", "the answer is an integer of thousands of digits"


def _only_element(text: str) -> str:
    """Return the text in `["text"]`, as some data sets write a single answer; others as they are.

    >>> [_only_element(text) for text in ('["34"]', "[34]", "[0, 1]")]
    ['34', '[34]', '[0, 1]']
    """
    if text.startswith('["') and text.endswith('"]'):
        try:
            found = json.loads(text)
        except ValueError:
            return text
        if isinstance(found, list) and len(found) == 1 and isinstance(found[0], str):
            return found[0]
    return text


def _kind(value: object) -> str:
    """Say what kind of value stands where none can be used."""
    if value is _ABSENT:
        return "missing"
    if value is None:
        return "null"
    if isinstance(value, list):
        return "an empty list" if not value else "a list"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float | Decimal):
        return "a number"
    return "bytes" if isinstance(value, bytes) else f"of type {type(value).__name__}"
