"""PPO: generalized advantages, the critic's loss, the entropy bonus, its neighbours, and resume."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from test_supervised import Bigram
from tiny import (
    MAX_CHARS,
    SMALL_RUN,
    FakeContext,
    assert_same_weights,
    frozen_logprobs,
    grpo_params,
    model,
    problems,
    rollout,
    save_policy,
    stage,
    tokenizer,
)

from r1pipe.errors import Interrupted, StageError
from r1pipe.method_params.policies import PpoParams
from r1pipe.policies.setup import Guides, opened
from r1pipe.policies.training import train_policy
from r1pipe.rl.ppo import (
    Critic,
    advantages_of_values,
    explained_variance,
    token_rewards,
    token_values,
    value_loss,
    whiten,
    whitened,
)
from r1pipe.supervision.reward_model import is_reward_model, new_reward_model
from r1pipe.train.backends import make_engine
from r1pipe.train.batching import Batching, micro_batches, one_batch
from r1pipe.train.logprobs import logprobs_and_entropies, token_logprobs

RUN = stage("ppo").run_model(micro_batch_tokens=4096, max_batch=64)
BATCHING = Batching(4096, "padded", 0)
STILL = {"lr": 1e-300}
"""An optimizer that moves nothing."""


def ppo_params(**changes: Any) -> PpoParams:
    """Return the parameters of a small run."""
    return PpoParams(**(SMALL_RUN | changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    """Return a tiny policy in a folder."""
    return save_policy(tmp_path_factory.mktemp("policy"))


def critic_of(folder: Path, params: PpoParams, head: float | None = None) -> Critic:
    """Return a critic on the policy's backbone; with `head` all weights of its head are that."""
    made = new_reward_model(folder, params.seed, RUN)
    if head is not None:
        torch.nn.init.constant_(made.score.weight, head)
    engine = make_engine(made, params.critic_optimizer or params.optimizer, RUN)
    return Critic(engine, params, Batching(4096, "padded", tokenizer().pad_token_id))


# ---- advantages ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.9, 0.95), (0.5, 0.0), (1.0, 0.3)])
def test_advantages_are_the_discounted_sums_of_temporal_differences(
    gamma: float, lam: float
) -> None:
    rng = random.Random(1)
    for length in (1, 2, 7, 30):
        rewards = [rng.gauss(0, 1) for _ in range(length)]
        values = [rng.gauss(0, 1) for _ in range(length)]
        after = [*values[1:], 0.0]
        deltas = [r + gamma * n - v for r, n, v in zip(rewards, after, values, strict=True)]
        slow = [
            sum((gamma * lam) ** (j - t) * deltas[j] for j in range(t, length))
            for t in range(length)
        ]
        assert advantages_of_values(rewards, values, gamma, lam) == pytest.approx(slow, abs=1e-12)


def test_without_discount_and_with_a_critic_of_zeros_advantages_are_the_rewards_to_come() -> None:
    rewards = [-0.5, 0.25, 1.0]
    assert advantages_of_values(rewards, [0.0] * 3, 1.0, 1.0) == [0.75, 1.25, 1.0]


def test_a_token_is_rewarded_by_minus_its_kl_and_the_last_sampled_one_by_the_outcome() -> None:
    made = rollout([1, 2], [5, 6, 7, 8], [-1.0, -2.0, 0.0, -0.5])
    made.trained, made.reward = [True, True, False, True], 1.0
    found = token_rewards(made, [-1.5, -1.0, -9.0, -0.5], 0.1)
    assert found == pytest.approx([-0.05, 0.1, 1.0])
    assert made.rewards == {"kl": pytest.approx(0.5)}
    assert token_rewards(made, None, 0.1) == [0.0, 0.0, 1.0]


def test_whitening_is_over_all_sampled_tokens_with_the_sample_variance() -> None:
    one, other = rollout([1], [5, 6]), rollout([1], [7, 8])
    one.streams["advantage"], other.streams["advantage"] = [1.0, 2.0], [3.0, 99.0]
    other.trained = [True, False]
    whiten([one, other])  # of 1, 2, 3: mean 2, variance 1
    assert one.streams["advantage"] == pytest.approx([-1.0, 0.0])
    assert other.streams["advantage"] == pytest.approx([1.0, 0.0])
    assert whitened(torch.tensor([4.0])).tolist() == [4.0]


def test_the_fit_of_the_values_is_one_where_they_are_the_returns() -> None:
    made = rollout([1], [5, 6, 7])
    made.streams |= {"return": [1.0, 2.0, 3.0], "value": [1.0, 2.0, 3.0]}
    assert explained_variance([made]) == 1.0
    made.streams["value"] = [2.0, 2.0, 2.0]
    assert explained_variance([made]) == 0.0
    made.streams["return"] = [1.0, 1.0, 1.0]
    assert explained_variance([made]) is None


# ---- the critic ----------------------------------------------------------------------------------


def test_a_value_is_read_before_its_token_and_at_no_other(folder: Path) -> None:
    critic = critic_of(folder, ppo_params())
    first, second = rollout([5, 6, 7], [8, 9, 10]), rollout([6], [11, 12])
    second.trained = [False, True]
    values = critic.values([first, second])
    assert list(map(len, values)) == [3, 1]
    own: Any = critic.engine.model
    with torch.no_grad():
        for prefix, value in (([5, 6, 7], values[0][0]), ([5, 6, 7, 8, 9], values[0][2])):
            slow = own(input_ids=torch.tensor([prefix])).logits[0, 0]
            assert value == pytest.approx(float(slow), abs=1e-5)
        assert values[1][0] == pytest.approx(
            float(own(input_ids=torch.tensor([[6, 11]])).logits[0, 0]), abs=1e-5
        )


def test_the_critics_gradient_is_the_mean_error_and_none_where_the_clip_acts(folder: Path) -> None:
    critic = critic_of(folder, ppo_params())
    made = rollout([5, 6, 7], [8, 9, 10])
    (values,) = critic.values([made])
    wanted = [values[0] + 1.0, values[1] + 1.0, values[2] - 2.0]
    # the first is free; the second was 0.5 lower and may have come to 0.2 above that only, so the
    # error of 1.3 to there is the larger one; the third was 0.5 higher: near its return by 2.0
    # itself, by 2.3 from the clipped value
    old = [values[0], values[1] - 0.5, values[2] + 0.5]
    made.streams |= {"return": wanted, "value": old}
    batch = one_batch([made], 0)
    net: Any = critic.engine.model
    loss = value_loss(net, batch, clip=0.2, num_tokens=3)
    expected = 0.5 * (1.0 + 1.3**2 + 2.3**2) / 3
    assert loss.value.item() == pytest.approx(expected, abs=1e-4)
    assert loss.sums["value_clip_frac"] == pytest.approx(2 / 3)
    (gradient,) = torch.autograd.grad(loss.value, [net.score.weight])
    with torch.enable_grad():
        only = token_values(net, batch)[0]
    (first,) = torch.autograd.grad(only, [net.score.weight])
    torch.testing.assert_close(gradient, -1.0 / 3 * first, atol=1e-5, rtol=1e-4)
    free = value_loss(net, batch, clip=None, num_tokens=3)
    assert free.value.item() == pytest.approx(0.5 * (1 + 1 + 4) / 3, abs=1e-4)


def test_the_critic_learns_what_returns_are(folder: Path) -> None:
    params = ppo_params(num_steps=60, value_clip=None, critic_optimizer={"lr": 1e-2})
    critic = critic_of(folder, params)
    made = [rollout([5, 6], [7, 8, 9]), rollout([5, 6], [9, 8])]
    for each, value in zip(made, (1.0, -1.0), strict=True):
        length = len(each.completion_ids)
        each.streams |= {"return": [value] * length, "value": [0.0] * length}
    losses = [critic.update(made, step)["value_loss"] for step in range(40)]
    # before the first token both are alike, so two of five tokens keep an error of 1
    assert losses[0] > 0.4
    assert losses[-1] < 0.5 * losses[0]
    assert critic.values(made)[0][2] > 0.5
    assert critic.values(made)[1][1] < -0.5


def test_a_critic_that_diverges_stops_before_its_weights_move(folder: Path) -> None:
    critic = critic_of(folder, ppo_params())
    made = rollout([5], [6, 7])
    made.streams |= {"return": [math.nan, 0.0], "value": [0.0, 0.0]}
    before = [p.detach().clone() for p in critic.engine.model.parameters()]
    with pytest.raises(
        StageError, match=r"step 1: the critic's loss or its gradient is not finite"
    ):
        critic.update([made], 0)
    after = list(critic.engine.model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


# ---- entropy -------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_entropies_are_those_of_the_distribution_that_is_sampled(temperature: float) -> None:
    policy, made = model(), rollout([5, 6], [7, 8, 9])
    batch = one_batch([made], 0)
    with torch.no_grad():
        logprobs, entropies = logprobs_and_entropies(policy, batch, temperature)
        logits = policy(input_ids=batch.input_ids).logits[0, 1:4].double() / temperature
        assert torch.equal(logprobs, token_logprobs(policy, batch, temperature)) or torch.allclose(
            logprobs, token_logprobs(policy, batch, temperature), atol=1e-6
        )
    slow = [-sum(p * math.log(p) for p in row.softmax(0).tolist()) for row in logits]
    assert entropies.tolist() == pytest.approx(slow, abs=1e-5)


def test_the_gradient_of_the_entropy_is_the_closed_form() -> None:
    # with H = -sum p log p: dH / d logit = -p (log p + H) / temperature, at the token before
    table: Any = Bigram()
    (sequence, temperature) = (rollout([2, 3], [4, 4, 1]), 0.5)
    _, entropies = logprobs_and_entropies(table, one_batch([sequence], 0), temperature)
    entropies.sum().backward()
    logits = table.lm_head.weight.detach().T / temperature  # [from, to]
    expected = torch.zeros_like(logits)
    for before in (3, 4, 4):
        logs = logits[before].log_softmax(0)
        expected[before] -= logs.exp() * (logs - (logs.exp() * logs).sum()) / temperature
    torch.testing.assert_close(table.lm_head.weight.grad, expected.T, atol=1e-12, rtol=0)


# ---- whole runs ----------------------------------------------------------------------------------


def train(context: FakeContext, params: PpoParams, folder: Path, head: float | None = None) -> Any:
    """Train a fresh policy; return it."""
    policy, guides = model(), Guides(critic=critic_of(folder, params, head))
    with opened(context, policy, tokenizer(), params.as_grpo(), RUN, guides) as run:
        train_policy(run, problems(12, max_chars=MAX_CHARS))
    return policy


def test_with_a_critic_of_zeros_that_does_not_move_ppo_is_reinforce_with_a_clip(
    tmp_path: Path, folder: Path
) -> None:
    params = ppo_params(kl_coef=0.0, whiten=False, critic_optimizer=STILL, entropy_coef=0.0)
    ours = train(FakeContext(tmp_path / "ppo"), params, folder, head=0.0)
    plain = grpo_params(
        advantage="reward",
        kl_coef=0.0,
        clip_low=0.2,
        clip_high=0.2,
        aggregation="token-mean",
        entropy_coef=0.0,
    )
    theirs = model()
    with opened(FakeContext(tmp_path / "plain"), theirs, tokenizer(), plain, RUN) as run:
        train_policy(run, problems(12, max_chars=MAX_CHARS))
    assert_same_weights(ours, theirs)


def test_ppo_logs_its_critic_and_the_entropy_and_raises_its_reward(
    tmp_path: Path, folder: Path
) -> None:
    context = FakeContext(tmp_path)
    train(context, ppo_params(num_steps=40, kl_coef=0.0, critic_optimizer={"lr": 1e-2}), folder)
    (first, *_), last = context.logged, context.logged[-1]
    assert {"value_loss", "value_clip_frac", "value_grad_norm", "value_fit", "entropy"} <= set(last)
    assert first["entropy"] > 0
    rewards = context.column("reward")
    assert sum(rewards[-6:]) / 6 > sum(rewards[:6]) / 6


def test_rewards_that_are_all_equal_are_warned_of_and_groups_are_not_counted(
    tmp_path: Path, folder: Path
) -> None:
    context, chosen = FakeContext(tmp_path), ppo_params(num_steps=4)
    train(context, chosen.model_copy(update={"rewards": {"accuracy": 0.0}}), folder)
    assert context.column("rewards_std") == [0.0] * 4
    assert "flat_group_frac" not in context.logged[0]
    (text,) = [each for each in context.warnings if "one reward for all completions" in each]
    assert "for 4 updates in a row: advantages are the critic's errors alone" in text
    assert "the same reward, in each of 4 updates" in context.notes["nothing_learned"]


def test_the_entropy_bonus_keeps_the_entropy_higher(tmp_path: Path, folder: Path) -> None:
    entropies = {}
    for coef in (0.0, 0.5):
        context = FakeContext(tmp_path / str(coef))
        train(context, ppo_params(num_steps=12, kl_coef=0.0, entropy_coef=coef), folder)
        entropies[coef] = context.logged[-1]["entropy"]
    assert entropies[0.5] > entropies[0.0]


def test_a_run_that_was_stopped_goes_on_to_the_same_policy_and_critic(
    tmp_path: Path, folder: Path
) -> None:
    params = ppo_params()
    whole = train(FakeContext(tmp_path / "whole", saves=True), params, folder)
    with pytest.raises(Interrupted):
        train(FakeContext(tmp_path / "cut", stop_after=2, saves=True), params, folder)
    rest = FakeContext(tmp_path / "cut", saves=True)
    again = train(rest, params, folder)
    assert 0 < len(rest.logged) < 6, "it went on from a checkpoint"
    assert_same_weights(whole, again)


def test_the_stage_writes_policy_and_critic_and_starts_again_from_that_critic(
    tmp_path: Path, folder: Path
) -> None:
    from r1pipe.rows import write_problems
    from r1pipe.stage import Inputs

    write_problems(tmp_path / "problems", problems(4, max_chars=MAX_CHARS))
    kind, params = stage("ppo"), ppo_params(num_steps=2, entropy_coef=0.01)
    context = FakeContext(tmp_path / "one")
    given = {"model": folder, "problems": tmp_path / "problems"}
    kind.run(context, params, RUN, Inputs(given))
    critic = context.output("critic")
    assert is_reward_model(critic)
    moved = new_reward_model(critic, 0, RUN).score.weight
    fresh = new_reward_model(folder, params.seed, RUN).score.weight
    assert not torch.equal(moved, fresh)
    other, still = FakeContext(tmp_path / "two"), ppo_params(num_steps=2, critic_optimizer=STILL)
    kind.run(other, still, RUN, Inputs(given | {"critic": critic}))
    assert torch.equal(new_reward_model(other.output("critic"), 0, RUN).score.weight, moved)


def test_what_a_critic_has_no_use_for_is_refused() -> None:
    with pytest.raises(ValueError, match="dynamic_sampling leaves out groups"):
        ppo_params(dynamic_sampling=2)


def test_micro_batches_do_not_change_the_critics_loss(folder: Path) -> None:
    critic = critic_of(folder, ppo_params())
    made = [rollout([5] * n, [6, 7, 8][:n]) for n in (1, 2, 3)]
    for each in made:
        each.streams |= {
            "return": [1.0] * len(each.completion_ids),
            "value": [0.0] * len(each.completion_ids),
        }
    net: Any = critic.engine.model
    found = []
    for size in (1, 4096):
        parts = [
            value_loss(net, batch, clip=0.2, num_tokens=6).value.item()
            for batch in micro_batches(made, Batching(size, "padded", 0))
        ]
        found.append(sum(parts))
    assert found[0] == pytest.approx(found[1], abs=1e-6)


def test_frozen_rows_and_sampler_rows_of_a_reference_agree_at_the_start(folder: Path) -> None:
    made = rollout([5, 6], [7, 8])
    (row,) = frozen_logprobs(model(), [made], 1.0, BATCHING)
    made.streams["sampler_logprobs"] = row
    assert token_rewards(made, row, 5.0) == [0.0, 0.0]
