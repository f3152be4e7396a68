"""Shapes of training rows, as the field ships them, read into one form: a conversation.

A shape is recognised by the names of columns alone, so that all rows of a data set have the same
one; what is wrong with a row's values is a `BadRow`, row by row. The names are those of the data
sets of open-r1, open-thoughts, TRL, LLaMA-Factory and axolotl.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from r1pipe.data import readings
from r1pipe.data.readings import LABELLED, Example, Generations, Read
from r1pipe.files.record import some_names
from r1pipe.records import Row

Gives = Literal["rows", "pairs", "labels"]
"""What is trained on: texts, pairs of a better and a worse answer, or answers with a rating."""
ShapeName = Literal[
    "r1pipe",
    "openr1",
    "pairs",
    "labels",
    "messages",
    "conversations",
    "thought",
    "alpaca",
    "prompt-completion",
]
Meaning = Literal[
    "prompt",
    "completion",
    "thought",
    "system",
    "messages",
    "tools",
    "format",
    "instruction",
    "input",
    "history",
    "generations",
    "chosen",
    "rejected",
    "label",
]
"""What a column may mean."""

PROMPTS = ("prompt", "question", "query", "problem", "instruction", "input")
COMPLETIONS = (
    *("completion", "response", "answer", "output", "solution", "generation"),
    "generated_solution",
)
THOUGHTS = {
    # column of the thought: columns that may hold what is said after it
    "reasoning_content": ("content", *COMPLETIONS),
    "reasoning": ("content", *COMPLETIONS),
    "thinking": ("content", *COMPLETIONS),
    "deepseek_reasoning": ("deepseek_solution",),
    "deepseek_thinking_trajectory": ("deepseek_attempt",),
}
LABELS = ("label", "is_safe", "kto_tag")
Find = Callable[[Collection[str]], dict[str, str] | None]


@dataclass(frozen=True)
class Shape:
    """A shape that rows have: which of their columns mean what, and how they are read."""

    name: ShapeName
    does: str
    """A plain sentence: what is made of a row."""
    gives: Gives
    columns: Mapping[str, str]
    """What it means (`prompt`, `messages`, ...) -> the column."""
    read: Read

    def examples(self, values: Row, generations: Generations = "first-correct") -> list[Example]:
        """Return what a row holds, usually one example; raises BadRow, or NoneCorrect."""
        meant = {name: values.get(column) for name, column in self.columns.items()}
        return list(self.read(meant, generations))


def detect(
    values: Row, columns: Mapping[Meaning, str] | None = None, name: ShapeName | None = None
) -> Shape | None:
    """Return the shape of a row, or None if it has none that is known or more than one reading.

    Names of columns are taken in any case. `columns` says which column means what ({prompt:
    question, completion: answer}), and then no others count; `name` asks for one shape in place of
    the first that fits.
    """
    given = {str(meaning): column for meaning, column in (columns or {}).items()}
    given = given or {column.lower(): column for column in reversed(values)}
    for each in SHAPES:
        if name in (None, each.name) and (found := each.find(given)) is not None:
            meant = {meaning: given[known] for meaning, known in found.items()}
            does = each.does.format(**{key: f"'{column}'" for key, column in meant.items()})
            return Shape(each.name, does, each.gives, meant, each.read)
    return None


def advice(values: Row) -> str:
    """Say what to do about rows of no known shape."""
    names = sorted(values)
    several = [
        f"which of {', '.join(found)} is the {meaning}"
        for meaning, known in (("prompt", PROMPTS), ("completion", COMPLETIONS))
        if len(found := [name for name in known if name in values]) > 1
    ]
    why = f" ({'; '.join(several)}?)" if several else ""
    return (
        f"its columns are {some_names(names)}, which is no shape of rows that is known{why}; say"
        " what they mean with params.columns, as in {prompt: question, completion: answer}"
    )


# ---- how each shape is recognised ----------------------------------------------------------------


@dataclass(frozen=True)
class _Known:
    """A shape before its columns are known; `does` names them in braces."""

    name: ShapeName
    gives: Gives
    find: Find
    does: str
    read: Read


def _one_of(names: Collection[str], known: Sequence[str]) -> str | None:
    """Return the only one of some known names that is there."""
    found = [name for name in known if name in names]
    return found[0] if len(found) == 1 else None


def _with(names: Collection[str], found: dict[str, str], *optional: str) -> dict[str, str]:
    return {**found, **{name: name for name in optional if name in names}}


def _find_own(names: Collection[str]) -> dict[str, str] | None:
    wanted = ("prompt", "completion", "format")
    if not all(name in names for name in wanted):
        return None
    return _with(names, {name: name for name in wanted}, "messages", *LABELLED)


def _find_openr1(names: Collection[str]) -> dict[str, str] | None:
    prompt = next((name for name in ("problem", "prompt", "question") if name in names), None)
    if "generations" not in names or prompt is None:
        return None
    flags = {
        "complete": "is_reasoning_complete",
        "correct": "correctness_math_verify",
        "judged": "correctness_llama",
    }
    flags = {meaning: column for meaning, column in flags.items() if column in names}
    return _with(names, {"prompt": prompt, "generations": "generations", **flags}, "system")


def _find_pairs(names: Collection[str]) -> dict[str, str] | None:
    chosen = _one_of(names, ("chosen", "chosen_response"))
    rejected = _one_of(names, ("rejected", "rejected_response"))
    if chosen is None or rejected is None:
        return None
    found = {"chosen": chosen, "rejected": rejected}
    known = ("prompt", "question", "query", "problem", "instruction", "messages", "conversations")
    prompt = next((name for name in known if name in names), None)
    if prompt is not None:
        found["prompt"] = prompt
    return _with(names, found, "system", "input")


def _find_labels(names: Collection[str]) -> dict[str, str] | None:
    label = _one_of(names, LABELS)
    if label is None:
        return None
    for find in (_find_messages, _find_conversations, _find_plain):
        if (found := find(names)) is not None:
            return {**found, "label": label}
    return None


def _find_messages(names: Collection[str]) -> dict[str, str] | None:
    if "messages" not in names:
        return None
    return _with(names, {"messages": "messages"}, "system", "tools")


def _find_conversations(names: Collection[str]) -> dict[str, str] | None:
    column = _one_of(names, ("conversations", "conversation"))
    return None if column is None else _with(names, {"messages": column}, "system", "tools")


def _find_thought(names: Collection[str]) -> dict[str, str] | None:
    if {"prompt", "thought", "completion"} <= set(names):  # as params.columns says
        own = {name: name for name in ("prompt", "thought", "completion")}
        return _with(names, own, "system")
    thought = _one_of(names, list(THOUGHTS))
    prompt = _one_of(names, PROMPTS)
    said = _one_of(names, THOUGHTS[thought]) if thought else None
    if not (thought and prompt and said):
        return None
    return _with(names, {"prompt": prompt, "thought": thought, "completion": said}, "system")


def _find_alpaca(names: Collection[str]) -> dict[str, str] | None:
    said = _one_of(names, ("output", "response", "completion"))
    if "instruction" not in names or said is None or "prompt" in names:
        return None
    found = {"instruction": "instruction", "completion": said}
    if more := _one_of(names, ("input", "context")):
        found["input"] = more
    return _with(names, found, "system", "history")


def _find_plain(names: Collection[str]) -> dict[str, str] | None:
    if "prompt" in names and "completion" in names:
        return _with(names, {"prompt": "prompt", "completion": "completion"}, "system")
    prompt, said = _one_of(names, PROMPTS), _one_of(names, COMPLETIONS)
    if prompt is None or said is None:
        return None
    return _with(names, {"prompt": prompt, "completion": said}, "system")


_TURNS = "conversations, trained at the turns of the assistant"
SHAPES = (
    _Known("r1pipe", "rows", _find_own, "r1pipe's own rows, as they are", readings.read_own),
    _Known(
        "openr1",
        "rows",
        _find_openr1,
        "answers of {generations} to {prompt} that are complete and marked as correct",
        readings.read_openr1,
    ),
    _Known(
        "pairs",
        "pairs",
        _find_pairs,
        "pairs of a better and a worse answer to a prompt",
        readings.read_pairs,
    ),
    _Known(
        "labels", "labels", _find_labels, "answers with the rating {label}", readings.read_labels
    ),
    _Known("messages", "rows", _find_messages, _TURNS, readings.read_conversation),
    _Known("conversations", "rows", _find_conversations, _TURNS, readings.read_conversation),
    _Known(
        "thought",
        "rows",
        _find_thought,
        "{completion} after the thought {thought}, trained as the answer to {prompt}",
        readings.read_thought,
    ),
    _Known(
        "alpaca",
        "rows",
        _find_alpaca,
        "{completion}, trained as the answer to {instruction} with its input",
        readings.read_alpaca,
    ),
    _Known(
        "prompt-completion",
        "rows",
        _find_plain,
        "{completion}, trained as the answer to {prompt}",
        readings.read_plain,
    ),
)
"""In the order in which they are tried: a data set of OpenR1 has `messages` as well."""
