"""One vocabulary for all files: problems, completions, verdicts, rollouts, groups."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """What the verifier found; never a bare float, so that a fault is never folded into wrong."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    GOLD_UNUSABLE = "gold_unusable"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    UNJUDGED = "unjudged"
    """No rule can check the answer, and no judge has yet."""


class FinishReason(StrEnum):
    """Why sampling ended: an end-of-sequence token, or the token limit."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Problem:
    """A task item: the prompt as the user words it, and what decides whether an answer is right.

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

    def to_row(self) -> dict[str, Any]:
        """Return a flat row for Parquet; `meta` becomes JSON text."""
        row = {name: getattr(self, name) for name in self.__slots__}
        row["meta"] = json.dumps(dict(self.meta), sort_keys=True, ensure_ascii=False)
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Problem:
        """Return the problem of a row written by `to_row`; further columns are ignored."""
        values = {name: row[name] for name in cls.__slots__}
        values["meta"] = json.loads(values["meta"])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Completion:
    """Tokens sampled for one problem, end-of-sequence token included when `finish_reason` is stop.

    `sampler_logprobs` are log-probabilities of each token under the sampler at the sampling
    temperature (natural logarithm).
    """

    problem_id: str
    sample_index: int
    seed: int
    token_ids: list[int]
    text: str
    finish_reason: FinishReason
    sampler_logprobs: list[float]

    def to_row(self) -> dict[str, Any]:
        """Return a flat row for Parquet."""
        return asdict(self) | {"finish_reason": self.finish_reason.value}


@dataclass(slots=True)
class Rollout:
    """A completion with its rewards by name (weighted sum in `reward`) and its advantage."""

    completion: Completion
    prompt_ids: list[int]
    rewards: dict[str, float] = field(default_factory=dict)
    reward: float = 0.0
    advantage: float = 0.0
    verdict: Verdict | None = None


@dataclass(slots=True)
class Group:
    """The rollouts of one problem; advantages are computed inside it."""

    problem: Problem
    rollouts: list[Rollout]


def json_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Return rows of JSON values as lines of JSON, one each."""
    dumps = json.dumps
    lines = [dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows]
    return "".join(line + "\n" for line in lines).encode()
