"""Rollouts between ranks: each samples and scores its share of the problems, all train on all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

from r1pipe.ranks import Ranks
from r1pipe.records import Completion, FinishReason, Group, Problem, Rollout, Verdict


def gather_groups(ranks: Ranks, problems: Sequence[Problem], mine: list[Group]) -> list[Group]:
    """Return the groups of all problems, given those of this rank's share of them."""
    if ranks.size == 1:
        return mine
    rows = ranks.gather([[asdict(rollout) for rollout in group.rollouts] for group in mine])
    return [
        Group(problem, [rollout_of(row) for row in rollouts])
        for problem, rollouts in zip(problems, chain.from_iterable(rows), strict=True)
    ]


def rollout_of(row: Mapping[str, Any]) -> Rollout:
    """Return the rollout of a row that `asdict` made and JSON carried."""
    completion = dict(row["completion"])
    completion["finish_reason"] = FinishReason(completion["finish_reason"])
    verdict = None if row["verdict"] is None else Verdict(row["verdict"])
    return Rollout(**{**row, "completion": Completion(**completion), "verdict": verdict})
