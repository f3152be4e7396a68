"""What a row of each shape holds, read into one form: a conversation with its answer last.

A row comes by meaning (`prompt`, `messages`, ...), not by the names of its data set. What is wrong
with its values is a `BadRow`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from r1pipe.data.messages import (
    BadRow,
    answer_of,
    context_of,
    conversation_of,
    kind_of,
    read_messages,
    text_of,
    with_system,
    with_thought,
)
from r1pipe.records import Message, Row

Generations = Literal["first-correct", "every-correct"]
LABELLED = ("problem_id", "task", "language", "level", "source")
"""Columns of r1pipe's own rows that stay as they are."""
HUMAN = re.compile(r"\n\n(Human|Assistant):")
"""How a turn begins in a text of hh-rlhf."""


class NoneCorrect(Exception):  # noqa: N818 - nothing is wrong with the row
    """None of a row's generations is marked as correct."""


@dataclass(frozen=True)
class Example:
    """One row in the form that all shapes are read into."""

    messages: list[Message]
    """The conversation; its last turn is the (chosen) answer of the assistant."""
    format: object = None
    """What a column `format` says, if there is one."""
    rejected: str | None = None
    """The worse answer in place of the last turn, of a pair."""
    label: float | None = None
    """The rating of the last turn: 1 is good, 0 bad, or as a number that the row has."""
    facts: Row = field(default_factory=dict)
    """Columns of r1pipe's own rows."""


Read = Callable[[Row, Generations], Iterator[Example]]


def read_own(row: Row, _: Generations) -> Iterator[Example]:
    """Read a row as r1pipe writes it."""
    facts = {name: row[name] for name in LABELLED if row.get(name) is not None}
    for example in read_plain(row, "first-correct"):
        yield replace(example, format=row.get("format"), facts=facts)


def read_plain(row: Row, _: Generations) -> Iterator[Example]:
    """Read a prompt and a completion, as texts or messages."""
    if row.get("messages") is not None:
        yield from read_conversation(row, "first-correct")
        return
    before = context_of(row.get("prompt"), "prompt", row.get("system"))
    said = answer_of(row.get("completion"), "completion")
    yield Example([*before, Message("assistant", said)])


def read_conversation(row: Row, _: Generations) -> Iterator[Example]:
    """Read a whole conversation."""
    yield Example(
        conversation_of(row.get("messages"), "messages", row.get("system"), row.get("tools"))
    )


def read_thought(row: Row, _: Generations) -> Iterator[Example]:
    """Read a prompt, a thought and what is said after it."""
    before = context_of(row.get("prompt"), "prompt", row.get("system"))
    thought = text_of(row.get("thought"), "thought")
    said = with_thought(thought, answer_of(row.get("completion"), "completion"))
    yield Example([*before, Message("assistant", said)])


def read_alpaca(row: Row, _: Generations) -> Iterator[Example]:
    """Read an instruction, its input, the turns before it and the output."""
    prompt = text_of(row.get("instruction"), "instruction", may_be_empty=True).strip()
    if row.get("input") is not None:
        more = text_of(row["input"], "input", may_be_empty=True).strip()
        prompt = f"{prompt}\n\n{more}".strip()
    turns = [*_history(row.get("history")), Message("user", text_of(prompt, "instruction"))]
    said = answer_of(row.get("completion"), "completion")
    yield Example([*with_system(turns, row.get("system")), Message("assistant", said)])


def _history(value: object) -> Iterator[Message]:
    """Yield earlier turns, given as pairs of what was said and answered."""
    if value is None:
        return
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise BadRow(f"history is {kind_of(value)}, not a list of pairs")
    for pair in value:
        if not isinstance(pair, Sequence) or isinstance(pair, (str, bytes)) or len(pair) != 2:
            raise BadRow("history holds something that is not a pair")
        yield Message("user", text_of(pair[0], "history"))
        yield Message("assistant", text_of(pair[1], "history"))


def read_openr1(row: Row, generations: Generations) -> Iterator[Example]:
    """Read the generations that are marked as correct: the first, or every one."""
    texts = row.get("generations")
    if not isinstance(texts, Sequence) or isinstance(texts, (str, bytes)):
        raise BadRow(f"generations is {kind_of(texts)}, not a list of texts")
    if not texts:
        raise BadRow("generations is empty")
    usable = [number for number in range(len(texts)) if _is_usable(row, number)]
    if not usable:
        raise NoneCorrect
    before = context_of(row.get("prompt"), "prompt", row.get("system"))
    for number in usable if generations == "every-correct" else usable[:1]:
        said = answer_of(texts[number], "a generation")
        yield Example([*before, Message("assistant", said)])


def _is_usable(row: Row, number: int) -> bool:
    """Return whether a generation is complete, and correct by one of the flags that are given."""
    flags = {name: _flag(row.get(name), number) for name in ("complete", "correct", "judged")}
    verdicts = [flags["correct"], flags["judged"]]
    is_judged = any(verdict is not None for verdict in verdicts)
    return flags["complete"] is not False and (True in verdicts or not is_judged)


def _flag(value: object, number: int) -> bool | None:
    """Return one flag of a list; None if there is none."""
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and number < len(value):
        return None if value[number] is None else bool(value[number])
    return None


def read_pairs(row: Row, _: Generations) -> Iterator[Example]:
    """Read a better and a worse answer; those that are messages may hold the prompt."""
    better, worse = row.get("chosen"), row.get("rejected")
    before: list[Message] = []
    if "prompt" not in row and isinstance(better, str) and HUMAN.match(better):
        better, worse = _human(better, "chosen"), _human(text_of(worse, "rejected"), "rejected")
    if _is_list(better) and _is_list(worse):
        first, second = read_messages(better, "chosen"), read_messages(worse, "rejected")
        if len(first) > 1 or len(second) > 1:  # they hold the prompt as well
            before = [a for a, b in zip(first[:-1], second[:-1], strict=False) if a == b]
            if len(first) != len(second) or first[:-1] != before or second[:-1] != before:
                raise BadRow("chosen and rejected differ before their last turn")
            before = with_system(before, row.get("system"))
            better, worse = _as_given(first[-1]), _as_given(second[-1])
    if not before:
        before = _asked(row)
    chosen, rejected = answer_of(better, "chosen"), answer_of(worse, "rejected")
    if chosen == rejected:
        raise BadRow("chosen and rejected are the same")
    yield Example([*before, Message("assistant", chosen)], rejected=rejected)


def _asked(row: Row) -> list[Message]:
    """Return the prompt of a pair: text, messages, or an instruction with its input."""
    if "prompt" not in row:
        raise BadRow("there is no prompt, and chosen and rejected are no messages")
    prompt = row["prompt"]
    more = row.get("input")
    if isinstance(prompt, str) and more is not None:
        prompt = f"{prompt}\n\n{text_of(more, 'input', may_be_empty=True)}".strip()
    return context_of(prompt, "prompt", row.get("system"))


def _as_given(message: Message) -> dict[str, str]:
    return {"role": message.role, "content": message.content}


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray))


def _human(text: str, name: str) -> list[dict[str, str]]:
    """Return the turns of a text in which each begins with `Human:` or `Assistant:`."""
    pieces = HUMAN.split(text)
    if pieces[0].strip():
        raise BadRow(f"{name} does not begin with Human:")
    turns = zip(pieces[1::2], pieces[2::2], strict=True)
    return [
        {"role": "user" if who == "Human" else "assistant", "content": said.strip()}
        for who, said in turns
    ]


def read_labels(row: Row, _: Generations) -> Iterator[Example]:
    """Read an answer with its rating."""
    label = row.get("label")
    if not isinstance(label, (bool, int, float)) or label != label:
        raise BadRow(f"label is {kind_of(label)}, not true, false or a number")
    read = read_plain if "prompt" in row else read_conversation
    for example in read(row, "first-correct"):
        yield replace(example, label=float(label))
