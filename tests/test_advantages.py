"""Group advantages against values worked by hand (rewards 0/1, groups of 16)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny import advantage_of, rollout

from r1pipe.records import Group, Problem
from r1pipe.rl.estimators import ESTIMATORS
from r1pipe.rl.objective import Credit, group_advantages


def group(num_correct: int) -> torch.Tensor:
    return torch.tensor([[1.0] * num_correct + [0.0] * (16 - num_correct)], dtype=torch.float64)


def test_four_of_sixteen_correct_give_plus_1_732_and_minus_0_577() -> None:
    # mean 1/4, population std sqrt(1/4 * 3/4) = sqrt(3)/4: 3/sqrt(3) and -1/sqrt(3)
    advantages = group_advantages(group(4))[0].tolist()
    assert advantages[:4] == pytest.approx([math.sqrt(3)] * 4, abs=1e-6)
    assert advantages[4:] == pytest.approx([-1 / math.sqrt(3)] * 12, abs=1e-6)


def test_one_of_sixteen_correct_gives_plus_3_873_and_minus_0_258() -> None:
    # mean 1/16, population std sqrt(15)/16: sqrt(15) and -1/sqrt(15)
    advantages = group_advantages(group(1))[0].tolist()
    assert advantages[0] == pytest.approx(3.8729833, abs=1e-6)
    assert advantages[1:] == pytest.approx([-0.2581989] * 15, abs=1e-6)


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 0.7, 1 / 3, -2.3])
@pytest.mark.parametrize("size", [3, 7, 16])
@pytest.mark.parametrize("scale", ["population", "none"])
def test_a_group_of_equal_rewards_has_advantages_of_exactly_zero(
    reward: float, size: int, scale: Any
) -> None:
    # in float64 too the mean of seven 0.1 is not 0.1, so that dividing by 1e-8 would leave a rest
    rewards = torch.full((1, size), reward, dtype=torch.float64)
    assert group_advantages(rewards, scale).abs().max().item() == 0.0


def test_without_a_scale_the_advantage_is_the_centred_reward() -> None:
    advantages = group_advantages(group(4), "none")[0].tolist()
    assert advantages == [0.75] * 4 + [-0.25] * 12


def test_each_row_is_a_group_of_its_own() -> None:
    both = torch.cat([group(4), group(1)])
    torch.testing.assert_close(group_advantages(both)[1], group_advantages(group(1))[0])
    torch.testing.assert_close(group_advantages(both)[0], group_advantages(group(4))[0])


def test_rounding_of_a_reward_model_makes_no_whole_advantage() -> None:
    # one ulp of float32 near 0.5 in a group of sixteen: std = ulp * sqrt(15)/16 = 1.44e-8
    ulp = 2**-24
    rewards = [0.5 + ulp] + [0.5] * 15
    groups = []
    for name in ("accuracy", "preference"):
        rollouts = [rollout([1], [2]) for _ in rewards]
        for made, reward in zip(rollouts, rewards, strict=True):
            made.reward, made.rewards = reward, {name: reward}
        groups.append(Group(Problem("p", "t", "?", "a"), rollouts))
    Credit(ESTIMATORS["group"]).assign(groups)
    std = ulp * math.sqrt(15) / 16
    rule, model = (advantage_of(g.rollouts[0]) for g in groups)
    assert rule == pytest.approx(ulp * 15 / 16 / (std + 1e-8), rel=1e-6)
    assert rule > 2
    assert model == pytest.approx(ulp * 15 / 16 / (std + 1e-6), rel=1e-6)
    assert model < 0.06


def test_rewards_in_float32_are_refused() -> None:
    with pytest.raises(AssertionError, match="rewards must be float64"):
        group_advantages(group(4).float())


def test_rollouts_get_the_advantages_of_their_own_group() -> None:
    groups = []
    for rewards in ([1.0, 0.0], [2.0, 2.0], [0.0, 3.0]):
        rollouts = [rollout([1], [2]) for _ in rewards]
        for made, reward in zip(rollouts, rewards, strict=True):
            made.reward = reward
        groups.append(Group(Problem("p", "t", "q", "g"), rollouts))
    Credit(ESTIMATORS["group"]).assign(groups)
    # two rewards a distance d apart: mean in the middle, std d/2, so plus and minus one
    found = [[advantage_of(r) for r in g.rollouts] for g in groups]
    assert found[0] == pytest.approx([1.0, -1.0], abs=1e-6)
    assert found[1] == [0.0, 0.0]
    assert found[2] == pytest.approx([-1.0, 1.0], abs=1e-6)
