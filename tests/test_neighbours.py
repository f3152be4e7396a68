"""Methods that the papers say are the same, each by its own code and to its end: RFT and online
RFT, PPO and REINFORCE with KL. In float64, to 1e-6."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from test_estimators import (
    WHOLE,
    assert_same_gradients,
    case,
    chosen_for,
    gradient_of_coefficients,
    gradient_of_update,
    rewarded,
)
from test_grpo_update import slow_logprobs
from test_ppo import critic_of, folder, ppo_params
from test_supervised import RecordingEngine, plan
from tiny import FakeContext
from torch import Tensor

from r1pipe.method_params.policies import OnlineRftParams
from r1pipe.records import Group, Problem, Rollout, TokenSequence
from r1pipe.rl.ppo import ValueCredit
from r1pipe.settings import Optimizer
from r1pipe.train.batching import Batching
from r1pipe.train.supervised import train_supervised

assert folder, "a fixture: a tiny policy in a folder"

# ---- RFT and online RFT --------------------------------------------------------------------------


def rft_gradient(work: Path, policy: Any, rollouts: Sequence[Rollout]) -> dict[str, Tensor]:
    """Return the gradient of one step of fine-tuning on completions, by `sft`'s own code."""
    rows = [TokenSequence(made.prompt_ids, made.completion_ids) for made in rollouts]
    engine: Any = RecordingEngine(copy.deepcopy(policy))
    steps = plan(num_epochs=1, batch_size=len(rows))
    train_supervised(FakeContext(work), engine, rows, steps, WHOLE, "sequence-mean")
    gradients: dict[str, Tensor] = engine.seen[0][0]
    return gradients


def at_temperature_one() -> tuple[Any, list[Rollout], list[list[float]]]:
    """Return the policy and its rollouts, as fine-tuning sees them: three of six are right."""
    policy, rollouts, reference = case(is_on_policy=True)
    with torch.no_grad():
        for made in rollouts:
            own = [value.item() for value in slow_logprobs(policy, made, 1.0)]
            made.streams["sampler_logprobs"][:] = own
    rewarded(rollouts, "indicator")
    return policy, rollouts, reference


def test_rft_has_the_gradient_of_equation_9(tmp_path: Path) -> None:
    policy, rollouts, reference = at_temperature_one()
    right = [made for made in rollouts if made.reward]
    found = rft_gradient(tmp_path, policy, right)
    expected = gradient_of_coefficients(
        policy,
        right,
        reference[: len(right)],
        lambda made, own, row, t: 1.0,
        lambda made: 1 / len(made.completion_ids) / len(right),
        temperature=1.0,
    )
    assert_same_gradients(found, expected)


def test_online_rft_on_frozen_completions_is_rft_by_the_code_of_both(tmp_path: Path) -> None:
    policy, rollouts, _ = at_temperature_one()
    chosen = OnlineRftParams(
        seed=1,
        format="chat",
        num_steps=1,
        problems_per_step=2,
        group_size=3,
        optimizer=Optimizer(lr=1e-3),
        max_tokens=11,
    )
    online = gradient_of_update(policy, rollouts, None, chosen.as_grpo())
    right = [made for made in rollouts if made.reward]
    assert len(right) * 2 == len(rollouts), "Eq. 11 is over all, Eq. 9 over the right ones"
    rft = rft_gradient(tmp_path, policy, right)
    assert_same_gradients({name: 2 * g for name, g in online.items()}, rft)


# ---- PPO and REINFORCE with KL -------------------------------------------------------------------

KL_COEF = 0.3


class Rows:
    """A reference of given log-probabilities."""

    def __init__(self, rows: list[list[float]]) -> None:
        self.rows = rows

    def logprobs(self, sequences: Any, temperature: float, batching: Batching) -> Any:
        assert temperature == 0.7
        return self.rows


@pytest.mark.parametrize("aggregation", ["token-mean", "sequence-mean", "sequence-sum"])
def test_ppo_without_discount_and_with_a_critic_of_zeros_is_reinforce_with_kl(
    folder: Path, aggregation: str
) -> None:
    policy, rollouts, reference = case(is_on_policy=True)
    groups = rewarded(rollouts, "reward")
    params = ppo_params(
        kl_coef=KL_COEF,
        gamma=1.0,
        gae_lambda=1.0,
        whiten=False,
        temperature=0.7,
        aggregation=aggregation,
    )
    critic: Any = critic_of(folder, params, head=0.0)
    anchor: Any = Rows(reference)
    ValueCredit(critic, anchor, 0.7, critic.batching).settle(groups)
    found = gradient_of_update(policy, rollouts, None, params.as_grpo())

    def to_come(made: Rollout, own: list[float], row: list[float], t: int) -> float:
        # the outcome, less the KL from this token on
        return made.reward - KL_COEF * sum(o - r for o, r in zip(own[t:], row[t:], strict=True))

    count, tokens = len(rollouts), sum(len(made.completion_ids) for made in rollouts)
    weights = {
        "token-mean": lambda made: 1 / tokens,
        "sequence-mean": lambda made: 1 / len(made.completion_ids) / count,  # as Eq. 17 has it
        "sequence-sum": lambda made: 1 / count,
    }
    expected = gradient_of_coefficients(policy, rollouts, reference, to_come, weights[aggregation])
    assert_same_gradients(found, expected)


@pytest.mark.parametrize(("gamma", "lam"), [(0.9, 0.8), (1.0, 0.95)])
def test_advantages_returns_and_values_of_a_rollout_by_the_slow_recursion(
    folder: Path, gamma: float, lam: float
) -> None:
    _, rollouts, reference = case(is_on_policy=True)
    groups = [Group(Problem("p", "t", "?", "a"), rollouts)]
    for number, made in enumerate(rollouts):
        made.reward = float(number % 2)
    params = ppo_params(kl_coef=KL_COEF, gamma=gamma, gae_lambda=lam, whiten=False)
    critic: Any = critic_of(folder, params, head=0.4)
    anchor: Any = Rows(reference)
    ValueCredit(critic, anchor, 0.7, critic.batching).settle(groups)
    for made, row in zip(rollouts, reference, strict=True):
        own, values = made.streams["sampler_logprobs"], made.streams["value"]
        assert max(map(abs, values)) > 0.05, "a critic of zeros shows nothing"
        rewards = [KL_COEF * (r - o) for o, r in zip(own, row, strict=True)]
        rewards[-1] += made.reward
        after = [*values[1:], 0.0]
        for t in range(len(values)):
            slow = math.fsum(
                (gamma * lam) ** (j - t) * (rewards[j] + gamma * after[j] - values[j])
                for j in range(t, len(values))
            )
            assert made.streams["advantage"][t] == pytest.approx(slow, abs=1e-9)
            assert made.streams["return"][t] == pytest.approx(slow + values[t], abs=1e-9)


# ---- the entropy bonus ---------------------------------------------------------------------------


def entropies(policy: Any, made: Rollout) -> list[Tensor]:
    """Return the entropy of the distribution of every token, by a whole softmax of each."""
    ids = torch.tensor([[*made.prompt_ids, *made.completion_ids]])
    logits = policy(input_ids=ids).logits[0].double() / 0.7
    first = len(made.prompt_ids) - 1
    rows = logits[first : first + len(made.completion_ids)].log_softmax(-1)
    return [-(row.exp() * row).sum() for row in rows]


@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_the_bonus_adds_its_share_of_the_gradient_of_every_tokens_entropy(kl_coef: float) -> None:
    policy, rollouts, reference = case(is_on_policy=False)
    for made in rollouts[:2]:  # a group of equal rewards has a bonus too
        made.streams["advantage"] = [0.0] * len(made.completion_ids)
    options = {"kl_coef": kl_coef, "aggregation": "token-mean"}
    rows = reference if kl_coef else None
    without = gradient_of_update(policy, rollouts, rows, chosen_for(**options))
    found = gradient_of_update(policy, rollouts, rows, chosen_for(**options, entropy_coef=0.5))
    slow = copy.deepcopy(policy)
    every = [each for made in rollouts for each in entropies(slow, made)]
    (-0.5 * torch.stack(every).mean()).backward()
    expected = {name: p.grad for name, p in slow.named_parameters()}
    assert_same_gradients({name: found[name] - without[name] for name in found}, expected)
