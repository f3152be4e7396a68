"""A batch of rollouts from rank 0: the other ranks have the same, to the last bit."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import pytest
from test_driven import on_ranks
from tiny import FakeContext, problems

from r1pipe.policies.broadcast import TimedBatch, broadcast
from r1pipe.ranks import ALONE
from r1pipe.records import FinishReason, Group, Rollout, RolloutBatch, Verdict


def rollout(number: int) -> Rollout:
    return Rollout(
        array("i", [1, 2]),
        array("i", [number, 7]),
        streams={
            "sampler_logprobs": array("d", [-0.1, number / 3]),
            "advantage": array("d", [0.7, 0.7]),
        },
        text="\u2028 text",
        finish_reason=FinishReason.LENGTH,
        seed=2**62 + number,
        verdict=Verdict.CORRECT if number % 2 else None,
        rewards={"accuracy": number / 7},
        reward=number / 7,
        trained=[True, False],
        steps=[(1, 0.5)],
    )


def made(draws: int) -> TimedBatch:
    """Return a batch of which the second group of each draw is trained on."""
    groups = [
        Group(problem, [rollout(2 * n), rollout(2 * n + 1)], revealed=n / 9)
        for n, problem in enumerate(problems(2 * draws))
    ]
    metrics = {"reward": 1 / 3, "draws": float(draws)}
    batch = RolloutBatch(5, groups[1::2], groups, metrics, {"drawn": 6})
    return TimedBatch(batch, 1.25, 2.5)


@pytest.mark.parametrize("draws", [1, 2])
def test_every_rank_trains_on_what_rank_0_made(tmp_path: Path, draws: int) -> None:
    one = made(draws)

    def work(rank: int, context: FakeContext) -> Any:
        return broadcast(context.ranks, one if rank == 0 else None)

    first, second, third = on_ranks(3, tmp_path, work)
    assert first is one
    for other in (second, third):
        assert other == one
        places = [[g is each for each in other.batch.sampled] for g in other.batch.groups]
        assert all(any(row) for row in places), "what is trained on is part of what was sampled"


def test_one_rank_keeps_its_own() -> None:
    one = made(1)
    assert broadcast(ALONE, one) is one
