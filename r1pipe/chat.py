"""The prompt and completion formats. Nothing else in r1pipe spells a tag.

Two formats exist in the recipe and must not be mixed:

- `r1-zero`: the plain template of DeepSeek-R1 (arXiv:2501.12948v1, Table 1); the completion is
  `<think>thought</think> <answer>answer</answer>`.
- `chat`: a chat template; the completion is a thought, then a summary that holds the final answer
  in a box, with no answer tag (arXiv:2501.12948v1, section 2.3.1, readable pattern).

In both the completion, not the prompt, opens the thought.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Format = Literal["r1-zero", "chat"]

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
USER, ASSISTANT, END, PAD = "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"

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


@dataclass(frozen=True, slots=True)
class Parts:
    """A completion taken apart. `thought` is None when no thought was closed.

    `answer_part` is the text after the last closed thought (all of it if there are no think
    tags) and None if a thought was opened and never closed: such a completion has no answer.
    """

    thought: str | None
    answer_part: str | None


def render_prompt(prompt: str, fmt: Format) -> str:
    """Return the text that the policy continues, for models made here.

    Models from outside bring their own chat template: see `models.prompts.encode_prompt`.
    """
    if fmt == "r1-zero":
        return f"{R1_ZERO_PASSAGE} User: {prompt}. Assistant:"
    return f"{USER}{prompt}{ASSISTANT}"


def render_completion(thought: str, answer: str, fmt: Format, summary: str = "") -> str:
    """Return a completion text in the given format (without the end-of-sequence token).

    `summary` is the readable text of the chat format; in r1-zero's tags only the answer is written.
    """
    if fmt == "r1-zero":
        return f"{THINK_OPEN}{thought}{THINK_CLOSE} {ANSWER_OPEN}{answer}{ANSWER_CLOSE}"
    return f"{THINK_OPEN}\n{thought}\n{THINK_CLOSE}\n\n{summary or answer}"


def split_completion(text: str) -> Parts:
    """Take a completion apart at the last closed thought, in time linear in its length."""
    close = text.rfind(THINK_CLOSE)
    if close < 0:
        return Parts(None, None if THINK_OPEN in text else text)
    after = text[close + len(THINK_CLOSE) :]
    before = text[:close]
    start = before.find(THINK_OPEN)
    thought = before[start + len(THINK_OPEN) :] if start >= 0 else before
    return Parts(thought.strip(), None if THINK_OPEN in after else after)


def boxed(answer: str) -> str:
    """Return the answer in a LaTeX box."""
    return f"\\boxed{{{answer}}}"
