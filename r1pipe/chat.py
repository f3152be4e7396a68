"""The prompt and completion formats. Nothing else in r1pipe spells a tag.

Two formats exist in the recipe and must not be mixed:

- `r1-zero`: the plain template of DeepSeek-R1 (arXiv:2501.12948v1, Table 1); the completion is
  `<think>thought</think> <answer>answer</answer>`.
- `chat`: the model's chat template; the completion is a thought, then a summary that holds the
  final answer in a box, with no answer tag (arXiv:2501.12948v1, section 2.3.1, readable pattern).

A format of one's own is `chat` with another system message, thought or answer. The text of a
completion always opens its thought, even where the chat template has opened it in the prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from r1pipe.errors import StageError

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
USER, ASSISTANT, END, PAD = "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"
SYSTEM = "<|system|>"

R1_ZERO_PASSAGE = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves"
    " it. The assistant first thinks about the reasoning process in the mind and then provides the"
    " user with the answer. The reasoning process and answer are enclosed within <think> </think>"
    " and <answer> </answer> tags, respectively, i.e., <think> reasoning process here </think>"
    " <answer> answer here </answer>."
)
"""The introductory passage of arXiv:2501.12948v1, Table 1, word for word."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""Jinja chat template of the models made here; it keeps the thought, so that SFT trains on it."""


FormatName: TypeAlias = Literal["r1-zero", "chat"]
AnswerPlace: TypeAlias = Literal["boxed", "tag", "last-line"]
"""Where a completion has its answer: in a LaTeX box, in an answer tag, or on its last line."""
Think: TypeAlias = tuple[str, str]
HOUSE: Think = (THINK_OPEN, THINK_CLOSE)


@dataclass(frozen=True, slots=True)
class Format:
    """All that a prompt and a completion of one format need."""

    template: FormatName = "chat"
    """What lays the prompt out: the R1-Zero passage, or the tokenizer's chat template."""
    system: str = ""
    """The system message; in `r1-zero` it takes the passage's place."""
    suffix: str = ""
    """What follows every question, on a line of its own."""
    think: Think | None = HOUSE
    """What opens and closes the thought; None if there is none."""
    answer: AnswerPlace = "boxed"
    options: tuple[tuple[str, bool | int | str], ...] = ()
    """What the chat template is told besides, such as `enable_thinking`."""

    @property
    def text(self) -> str:
        """The format in a column of rows: a name, or the JSON of what differs from `chat`."""
        return _written(self)

    def question(self, prompt: str) -> str:
        """Return a problem's prompt with the suffix."""
        return f"{prompt}\n{self.suffix}" if self.suffix else prompt


AnyFormat: TypeAlias = Format | str
"""A format, or its text in a row."""
CHAT, R1_ZERO = Format(), Format("r1-zero", answer="tag")
PRESETS: Mapping[str, Format] = {"chat": CHAT, "r1-zero": R1_ZERO}


@lru_cache(maxsize=256)  # every row has it
def _written(fmt: Format) -> str:
    preset = PRESETS[fmt.template]
    changed = {
        f.name: dict(value) if f.name == "options" else value
        for f in fields(fmt)
        if (value := getattr(fmt, f.name)) != getattr(preset, f.name)
    }
    if not changed:
        return fmt.template
    if fmt.template != "chat":
        changed["template"] = fmt.template
    return json.dumps(changed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def as_format(fmt: AnyFormat) -> Format:
    """Return the format that a row's text names. Raises StageError for any other text."""
    return fmt if isinstance(fmt, Format) else _read(fmt)


@lru_cache(maxsize=256)
def _read(text: str) -> Format:
    if text in PRESETS:
        return PRESETS[text]
    try:
        value = json.loads(text)
        preset = PRESETS[value.get("template", "chat")]
        return _checked(replace(preset, **value))
    except (ValueError, TypeError, AttributeError, KeyError):
        raise StageError(
            f"format {text[:80]!r} is none that r1pipe wrote; use chat, r1-zero, or the JSON of a"
            ' format of your own, such as {"answer":"last-line","think":null}'
        ) from None


def _checked(found: Format) -> Format:
    """Return a format whose values came from JSON, or raise ValueError."""
    think: Any = found.think
    is_pair = think is None or (len(think) == 2 and all(isinstance(t, str) and t for t in think))
    texts = isinstance(found.system, str) and isinstance(found.suffix, str)
    if not is_pair or not texts or found.answer not in ("boxed", "tag", "last-line"):
        raise ValueError("not a format")
    options = tuple(sorted(dict(found.options).items()))
    return Format(
        found.template,
        found.system,
        found.suffix,
        None if think is None else (think[0], think[1]),
        found.answer,
        options,
    )


@dataclass(frozen=True, slots=True)
class Parts:
    """A completion taken apart. `thought` is None when no thought was closed.

    `answer_part` is the text after the last closed thought (all of it if there are no think
    tags) and None if a thought was opened and never closed: such a completion has no answer.
    """

    thought: str | None
    answer_part: str | None


def render_prompt(prompt: str, fmt: AnyFormat) -> str:
    """Return the text that the policy continues, for models made here.

    Models from outside bring their own chat template: see `models.prompts.encode_prompt`.
    """
    fmt = as_format(fmt)
    asked = fmt.question(prompt)
    if fmt.template == "r1-zero":
        return f"{fmt.system or R1_ZERO_PASSAGE} User: {asked}. Assistant:"
    system = f"{SYSTEM}{fmt.system}" if fmt.system else ""
    return f"{system}{USER}{asked}{ASSISTANT}"


def render_completion(thought: str, answer: str, fmt: AnyFormat, summary: str = "") -> str:
    """Return a completion text in the given format (without the end-of-sequence token).

    `summary` is the readable text of the chat format; in answer tags only the answer is written.
    """
    fmt = as_format(fmt)
    if fmt.template == "r1-zero":
        return f"{THINK_OPEN}{thought}{THINK_CLOSE} {ANSWER_OPEN}{answer}{ANSWER_CLOSE}"
    said = {
        "boxed": summary or answer,
        "tag": f"{ANSWER_OPEN}{answer}{ANSWER_CLOSE}",
        "last-line": answer,
    }[fmt.answer]
    if fmt.think is None:
        return f"{thought}\n\n{said}" if thought else said
    opener, closer = fmt.think
    return f"{opener}\n{thought}\n{closer}\n\n{said}"


def split_completion(text: str, think: Think = HOUSE) -> Parts:
    """Take a completion apart at the last closed thought, in time linear in its length."""
    opener, closer = think
    close = text.rfind(closer)
    if close < 0:
        return Parts(None, None if opener in text else text)
    after = text[close + len(closer) :]
    before = text[:close]
    start = before.find(opener)
    thought = before[start + len(opener) :] if start >= 0 else before
    return Parts(thought.strip(), None if opener in after else after)


def boxed(answer: str) -> str:
    """Return the answer in a LaTeX box."""
    return f"\\boxed{{{answer}}}"
