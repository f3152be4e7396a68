"""One vocabulary for all files: problems, verdicts, token sequences, rollouts, groups."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

from pydantic_core import to_json

Row: TypeAlias = dict[str, Any]
"""A row of Parquet or a line of JSON by column: its values come from disk and are checked where
they are read."""


Step: TypeAlias = tuple[int, float]
"""Where a step ends, as a count of what is before its end (tokens, or characters of a text), and
its reward."""


class Verdict(StrEnum):
    """The verifier's finding; never a bare float, so that a fault is never folded into wrong."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    GOLD_UNUSABLE = "gold_unusable"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    UNJUDGED = "unjudged"
    """No rule can check the answer, and no LLM judge has yet."""


class FinishReason(StrEnum):
    """Why sampling ended: an end-of-sequence token, or the token limit."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Problem:
    """A task item: the user's prompt, and the gold answer and checker that decide an answer.

    `checker` names an entry of `verify.CHECKERS`; `meta` holds what that checker needs (Countdown's
    numbers and target, the options of a choice), as plain JSON values.
    """

    id: str
    task: str
    prompt: str
    gold: str
    language: str = "en"
    checker: str = "math"
    solution: str | None = None
    level: int = 0
    meta: Mapping[str, Any] = field(default_factory=dict)

    def to_row(self) -> dict[str, object]:
        """Return a flat row for Parquet; `meta` becomes JSON text."""
        row = {name: getattr(self, name) for name in self.__slots__}
        row["meta"] = json.dumps(dict(self.meta), sort_keys=True, ensure_ascii=False)
        return row

    @classmethod
    def from_row(cls, row: Row) -> Problem:
        """Return the problem of a row written by `to_row`; further columns are ignored."""
        values = {name: row[name] for name in cls.__slots__}
        values["meta"] = json.loads(values["meta"])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, as a chat template is given it."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str
    """The text; the assistant's begins with its thought, in tags, if it has one."""
    is_trained: bool = True
    """Whether the turn may be trained if it is the assistant's."""


def messages_to_json(messages: Iterable[Message]) -> str:
    """Return a conversation as the text that a row's column `messages` holds."""
    turns = [
        {"role": each.role, "content": each.content} | ({} if each.is_trained else {"weight": 0})
        for each in messages
    ]
    return json.dumps(turns, ensure_ascii=False, separators=(",", ":"))


def messages_from_json(text: str) -> list[Message]:
    """Return the conversation that `messages_to_json` wrote."""
    return [
        Message(turn["role"], turn["content"], turn.get("weight", 1) != 0)
        for turn in json.loads(text)
    ]


@dataclass(slots=True)
class TokenSequence:
    """Prompt and completion as token ids: what a model is trained on."""

    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]
    """End-of-sequence token included, unless sampling was cut."""
    index: int = 0
    """Number of the sequence, by which its values are found again."""
    streams: dict[str, MutableSequence[float]] = field(default_factory=dict)
    """One number for each completion token, by name. A rollout may have 10^8 tokens: as an array a
    number takes 8 bytes, in a list of its own 32."""
    trained: Sequence[bool] | None = None
    """Which completion tokens are trained; None is all. In a conversation the completion goes from
    its first trained turn to its last, and what others say in between is not trained."""

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)

    @property
    def num_trained(self) -> int:
        """The number of trained tokens."""
        return len(self.completion_ids) if self.trained is None else sum(self.trained)


@dataclass(slots=True)
class Rollout(TokenSequence):
    """A completion sampled from the policy, from the sampler to the loss.

    Streams, as they come: `sampler_logprobs` (natural logarithm, at the sampling temperature),
    `advantage`, `old_logprobs` and `reference_logprobs` if they are needed, `weight`.
    """

    text: str = ""
    """The completion without its end-of-sequence token."""
    finish_reason: FinishReason = FinishReason.STOP
    seed: int = 0
    verdict: Verdict | None = None
    rewards: dict[str, float] = field(default_factory=dict)
    """By name; `reward` is their weighted sum."""
    reward: float = 0.0
    steps: list[Step] = field(default_factory=list)
    """Under process supervision, in completion tokens; under outcome supervision none."""


@dataclass(slots=True)
class Group:
    """The rollouts of one problem; advantages are computed inside it."""

    problem: Problem
    rollouts: list[Rollout]
    revealed: float = 0.0
    """Share of the problem's solution that was given with the prompt."""


@dataclass
class RolloutBatch:
    """The rollouts that are sampled together, and what was logged of the updates on them.

    R1 calls the whole batch a rollout, and so does `minibatches_per_rollout`. A `Rollout` here is
    one completion.
    """

    number: int
    """From 0, in the order in which batches are trained on."""
    groups: Sequence[Group]
    """Those that were trained on."""
    sampled: Sequence[Group]
    """All of them."""
    metrics: Mapping[str, float]
    """Of all that was sampled."""
    curriculum: dict[str, Any] = field(default_factory=dict)
    """What it has changed of the curriculum's state."""
    seconds: float = 0.0
    """Seconds that the training has waited for it."""
    updates: list[Mapping[str, float]] = field(default_factory=list)
    """What was logged of each update."""


def json_lines(rows: Iterable[Mapping[str, object]]) -> bytes:
    """Return rows of JSON values as lines of JSON, one each."""
    return b"".join([to_json(row) + b"\n" for row in rows])
