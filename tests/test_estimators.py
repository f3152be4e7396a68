"""Advantages, ratios, surrogates: by hand, against closed forms in float64, and their neighbours.

Equations are those of DeepSeekMath (arXiv:2402.03300), appendix A.1, where nothing else is said.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from test_grpo_update import RecordingEngine, random_rollouts, slow_logprobs
from test_sequence_parallel import on_ranks, threads_exchange
from tiny import advantage_of, grpo_params, model, rollout, tokenizer, update_policy
from torch import Tensor

from r1pipe.method_params.policies import Advantage, GrpoParams
from r1pipe.records import Group, Problem, Rollout
from r1pipe.rl.credits import subtract_kl
from r1pipe.rl.estimators import ESTIMATORS, RATIOS, SURROGATES, sequence_means
from r1pipe.rl.objective import EPS, Credit
from r1pipe.train.batching import Batching, micro_batches
from r1pipe.train.sequence_parallel import split

assert threads_exchange, "a fixture: threads of this process exchange tensors in place of ranks"

PAD = tokenizer().pad_token_id
WHOLE = Batching(10_000, "padded", PAD)
REWARDS = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 0.0], [0.0] * 4], dtype=torch.float64)


# ---- advantages ----------------------------------------------------------------------------------


def test_advantages_of_every_estimator_are_worked_by_hand() -> None:
    # group means 1/2, 3/4, 0; batch: 5 of 12 right, std sqrt(5/12 * 7/12) = sqrt(35)/12
    std = math.sqrt(35) / 12
    half, three = [0.5, -0.5, -0.5, 0.5], [0.25] * 3 + [-0.75]
    # of the centred rewards: (4 / 4 + 3 / 16 + 9 / 16) / 12 = 7 / 48
    inner = math.sqrt(7 / 48)
    third = math.sqrt(1 / 3)  # std of the second group is sqrt(3) / 4
    expected: dict[str, list[list[float]]] = {
        "group": [[1.0, -1.0, -1.0, 1.0], [third] * 3 + [-3 * third], [0.0] * 4],
        "group-mean": [half, three, [0.0] * 4],
        # the mean of the others: 1/3 for a right one of the first group, 2/3 for a wrong one
        "leave-one-out": [[2 / 3, -2 / 3, -2 / 3, 2 / 3], [1 / 3] * 3 + [-1.0], [0.0] * 4],
        "batch-mean": [[r - 5 / 12 for r in row] for row in REWARDS.tolist()],
        "batch": [[(r - 5 / 12) / std for r in row] for row in REWARDS.tolist()],
        "group-batch": [[a / inner for a in row] for row in (half, three, [0.0] * 4)],
        "reward": REWARDS.tolist(),
        "indicator": REWARDS.tolist(),
    }
    assert set(expected) == set(ESTIMATORS) == set(get_args(Advantage))
    for name, rows in expected.items():
        found = ESTIMATORS[name](REWARDS, EPS)  # type: ignore[index]
        want = torch.tensor(rows, dtype=torch.float64)
        torch.testing.assert_close(found, want, rtol=1e-6, atol=1e-6, msg=name)


def test_leaving_one_out_is_centring_times_g_over_g_less_one() -> None:
    rewards = torch.rand(5, 7, dtype=torch.float64)
    slow = [
        [float(r - (row.sum() - r) / 6) for r in row] for row in rewards
    ]  # the mean of the six others
    found = ESTIMATORS["leave-one-out"](rewards, EPS)
    torch.testing.assert_close(found, torch.tensor(slow, dtype=torch.float64))
    centred = ESTIMATORS["group-mean"](rewards, EPS)
    torch.testing.assert_close(found, centred * 7 / 6)


@pytest.mark.parametrize("name", ["group", "group-mean", "leave-one-out", "batch", "group-batch"])
def test_a_batch_of_equal_rewards_has_advantages_of_exactly_zero(name: Advantage) -> None:
    rewards = torch.full((3, 7), 0.1, dtype=torch.float64)
    assert ESTIMATORS[name](rewards, EPS).abs().max().item() == 0.0


def test_what_accepts_takes_any_reward_above_zero_as_one() -> None:
    rewards = torch.tensor([[0.0, 0.3, 1.0, -2.0]], dtype=torch.float64)
    assert ESTIMATORS["indicator"](rewards, EPS).tolist() == [[0.0, 1.0, 1.0, 0.0]]


def test_the_batch_is_that_of_all_groups(tmp_path: Any) -> None:
    groups = []
    for rewards in ([1.0, 0.0], [0.0, 0.0]):
        rollouts = [rollout([1], [2]) for _ in rewards]
        for made, reward in zip(rollouts, rewards, strict=True):
            made.reward = reward
        groups.append(Group(Problem("p", "t", "?", "a"), rollouts))
    Credit(ESTIMATORS["batch-mean"]).assign(groups)
    assert [[advantage_of(r) for r in g.rollouts] for g in groups] == [[0.75, -0.25], [-0.25] * 2]


def test_a_std_of_another_estimator_is_refused() -> None:
    with pytest.raises(ValueError, match=r"advantage_std none is of `advantage: group`.*leave it"):
        grpo_params(advantage="batch", advantage_std="none")
    assert grpo_params(advantage_std="none").estimator == "group-mean"
    assert grpo_params(advantage="leave-one-out").estimator == "leave-one-out"


def test_the_kl_in_the_reward_is_the_sum_of_log_ratios_of_the_completion() -> None:
    made = rollout([1], [2, 3], [-1.0, -2.0])
    made.reward = 1.0
    # k1 = (-1 + 1.5) + (-2 + 1) = -0.5, taken off with 0.1: 1 + 0.05
    subtract_kl([made], [[-1.5, -1.0]], 0.1)
    assert made.rewards["kl"] == pytest.approx(0.5)
    assert made.reward == pytest.approx(1.05)


# ---- gradients in float64 against the closed forms -----------------------------------------------


def case(is_on_policy: bool, num: int = 6) -> tuple[Any, list[Rollout], list[list[float]]]:
    """Return a float64 policy, rollouts and reference log-probabilities."""
    policy, rng = model().double(), random.Random(2)
    rollouts, reference = random_rollouts(num, seed=8), []
    with torch.no_grad():
        for made in rollouts:
            own = [value.item() for value in slow_logprobs(policy, made, 0.7)]
            gap = 0.0 if is_on_policy else 0.4
            made.streams["sampler_logprobs"][:] = [v + rng.gauss(0, gap) for v in own]
            reference.append([v + rng.gauss(0, 0.5) for v in own])
    return policy, rollouts, reference


def gradient_of_update(
    policy: Any,
    rollouts: Sequence[Rollout],
    reference: Sequence[Sequence[float]] | None,
    chosen: GrpoParams,
    batching: Batching = WHOLE,
) -> dict[str, Tensor]:
    """Return the gradients of one update."""
    engine = RecordingEngine(copy.deepcopy(policy))
    update_policy(engine, rollouts, reference, chosen, batching, 0.0)
    return engine.gradients


Coefficient = Callable[[Rollout, list[float], list[float], int], float]
"""(rollout, policy's and reference's log-probabilities, token) -> gradient coefficient."""


def gradient_of_coefficients(
    policy: Any,
    rollouts: Sequence[Rollout],
    reference: Sequence[list[float]],
    coefficient: Coefficient,
    weight: Callable[[Rollout], float],
    temperature: float = 0.7,
) -> dict[str, Tensor]:
    """Return minus the sum over tokens of weight x coefficient x gradient of log policy (Eq. 5)."""
    slow = copy.deepcopy(policy)
    total = torch.zeros((), dtype=torch.float64)
    for made, row in zip(rollouts, reference, strict=True):
        own = slow_logprobs(slow, made, temperature)
        values = [value.item() for value in own]
        for place, logprob in enumerate(own):
            total = total - weight(made) * coefficient(made, values, row, place) * logprob
    total.backward()
    return {name: p.grad for name, p in slow.named_parameters()}


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert max(float(g.abs().max()) for g in expected.values()) > 1e-2, "zeros show nothing"
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-6, msg=name)


def chosen_for(**changes: Any) -> GrpoParams:
    fixed = {"temperature": 0.7, "max_tokens": 11, "kl_coef": 0.0, "minibatches_per_rollout": 1}
    clips = {"clip_low": 0.2, "clip_high": 0.28}
    made: GrpoParams = grpo_params(**(fixed | clips | changes))
    return made


def by_length(made: Rollout) -> float:
    return 1 / len(made.completion_ids) / 6  # 1/G sum 1/|o|, with six completions


def test_grpo_with_one_update_has_the_gradient_of_equations_20_and_21() -> None:
    policy, rollouts, reference = case(is_on_policy=True)
    found = gradient_of_update(policy, rollouts, reference, chosen_for(kl_coef=0.04))

    def eq21(made: Rollout, own: list[float], row: list[float], t: int) -> float:
        return advantage_of(made) + 0.04 * (math.exp(row[t] - own[t]) - 1)

    expected = gradient_of_coefficients(policy, rollouts, reference, eq21, by_length)
    assert_same_gradients(found, expected)


@pytest.mark.parametrize("clip", [0.01, 0.2, 10.0])
def test_the_clip_does_not_act_on_the_only_update_of_a_rollout(clip: float) -> None:
    policy, rollouts, _ = case(is_on_policy=True)
    narrow = gradient_of_update(
        policy, rollouts, None, chosen_for(clip_low=clip, clip_high=clip, surrogate="clip")
    )
    plain = gradient_of_update(policy, rollouts, None, chosen_for(surrogate="none"))
    assert_same_gradients(narrow, plain)


def test_ppo_with_one_update_has_the_gradient_of_equation_17() -> None:
    # the coefficient is the advantage of the token, whatever estimated it
    policy, rollouts, reference = case(is_on_policy=True)
    rng = random.Random(3)
    for made in rollouts:
        made.streams["advantage"] = [rng.gauss(0, 1) for _ in made.completion_ids]
    found = gradient_of_update(policy, rollouts, None, chosen_for())
    expected = gradient_of_coefficients(
        policy,
        rollouts,
        reference,
        lambda made, own, row, t: made.streams["advantage"][t],
        by_length,
    )
    assert_same_gradients(found, expected)


def rewarded(rollouts: Sequence[Rollout], estimator: Advantage) -> list[Group]:
    """Reward the rollouts of two groups of three, and give them their advantages."""
    for number, made in enumerate(rollouts):
        made.reward = float(number in (0, 4, 5))
    asked = Problem("p", "t", "?", "a")
    groups = [Group(asked, list(rollouts[:3])), Group(asked, list(rollouts[3:]))]
    Credit(ESTIMATORS[estimator]).assign(groups)
    return groups


def test_online_rft_has_the_gradient_of_equation_11() -> None:
    policy, rollouts, reference = case(is_on_policy=True)
    rewarded(rollouts, "indicator")
    chosen = chosen_for(advantage="indicator", surrogate="none")
    found = gradient_of_update(policy, rollouts, None, chosen)
    expected = gradient_of_coefficients(
        policy, rollouts, reference, lambda made, own, row, t: float(made.reward > 0), by_length
    )
    assert_same_gradients(found, expected)


def test_online_rft_on_frozen_data_is_rft_but_for_the_share_that_is_right() -> None:
    # Eq. 9 has the mean over the right completions, Eq. 11 over all: three of six are right
    policy, rollouts, reference = case(is_on_policy=True)
    rewarded(rollouts, "indicator")
    found = gradient_of_update(
        policy, rollouts, None, chosen_for(advantage="indicator", surrogate="none")
    )
    right = [(made, row) for made, row in zip(rollouts, reference, strict=True) if made.reward]
    rft = gradient_of_coefficients(
        policy,
        [made for made, _ in right],
        [row for _, row in right],
        lambda made, own, row, t: 1.0,
        lambda made: 1 / len(made.completion_ids) / 3,
    )
    assert_same_gradients({name: 2 * g for name, g in found.items()}, rft)


def sequence_ratio(made: Rollout, own: list[float]) -> float:
    """Return GSPO's ratio of a completion: the product of token ratios to the power of 1/|o|."""
    sampler = made.streams["sampler_logprobs"]
    product = math.prod(math.exp(o - s) for o, s in zip(own, sampler, strict=True))
    return float(product ** (1 / len(own)))


def gspo_coefficient(made: Rollout, own: list[float], row: list[float], t: int) -> float:
    ratio, advantage = sequence_ratio(made, own), advantage_of(made)
    is_cut = ratio > 1.28 if advantage > 0 else ratio < 0.8
    return 0.0 if is_cut else ratio * advantage


@pytest.mark.parametrize("level", ["sequence", "sequence-token"])
@pytest.mark.parametrize(
    "batching",
    [
        WHOLE,
        Batching(1, "padded", PAD),
        Batching(31, "padded", PAD),
        Batching(31, "packed", PAD),
        Batching(10_000, "packed", PAD),
    ],
    ids=["whole", "alone", "some", "some-packed", "all-packed"],
)
def test_gspo_clips_whole_completions_in_every_layout(level: str, batching: Batching) -> None:
    policy, rollouts, reference = case(is_on_policy=False, num=12)
    cut = [
        gspo_coefficient(made, own, [], 0) == 0.0
        for made in rollouts
        if advantage_of(made)
        for own in [[v.item() for v in slow_logprobs(policy, made, 0.7)]]
    ]
    assert 0 < sum(cut) < len(cut), "the case should have both kinds"
    chosen = chosen_for(ratio=level)
    found = gradient_of_update(policy, rollouts, None, chosen, batching)
    expected = gradient_of_coefficients(
        policy,
        rollouts,
        reference,
        gspo_coefficient,
        lambda made: 1 / len(made.completion_ids) / 12,
    )
    assert_same_gradients(found, expected)


def test_gspo_on_one_token_is_grpo() -> None:
    policy, rollouts, _ = case(is_on_policy=False)
    short = []
    for made in rollouts:
        streams = {name: values[:1] for name, values in made.streams.items()}
        short.append(replace(made, completion_ids=made.completion_ids[:1], streams=streams))
    token = gradient_of_update(policy, short, None, chosen_for(ratio="token"))
    for level in ("sequence", "sequence-token"):
        whole = gradient_of_update(policy, short, None, chosen_for(ratio=level))
        assert_same_gradients(whole, token)


def test_cispo_weighs_by_the_clipped_ratio_and_keeps_every_tokens_gradient() -> None:
    policy, rollouts, reference = case(is_on_policy=False)
    chosen = chosen_for(surrogate="cispo", clip_low=1.0, aggregation="token-mean")
    found = gradient_of_update(policy, rollouts, None, chosen)
    num_tokens = sum(len(made.completion_ids) for made in rollouts)

    def coefficient(made: Rollout, own: list[float], row: list[float], t: int) -> float:
        ratio = math.exp(own[t] - made.streams["sampler_logprobs"][t])
        return min(ratio, 1.28) * advantage_of(made)

    expected = gradient_of_coefficients(
        policy, rollouts, reference, coefficient, lambda made: 1 / num_tokens
    )
    assert_same_gradients(found, expected)


def test_reinforce_sums_over_a_completion_and_means_over_completions() -> None:
    policy, rollouts, reference = case(is_on_policy=False)
    chosen = chosen_for(surrogate="none", aggregation="sequence-sum")
    found = gradient_of_update(policy, rollouts, None, chosen)
    expected = gradient_of_coefficients(
        policy,
        rollouts,
        reference,
        lambda made, own, row, t: advantage_of(made),
        lambda made: 1 / 6,
    )
    assert_same_gradients(found, expected)


def test_with_the_kl_in_the_reward_the_loss_has_none() -> None:
    policy, rollouts, reference = case(is_on_policy=True)
    chosen = chosen_for(kl_coef=0.5, kl_in="reward")
    found = gradient_of_update(policy, rollouts, reference, chosen)
    assert_same_gradients(found, gradient_of_update(policy, rollouts, None, chosen_for()))


# ---- sums over the parts of a sequence -----------------------------------------------------------


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_means_over_sequences_are_those_of_the_whole_where_ranks_share_positions(
    layout: Any,
) -> None:
    rollouts = random_rollouts(5, seed=4)
    tokens = 10_000 if layout == "packed" else 64
    for batch in micro_batches(rollouts, Batching(tokens, layout, PAD)):
        values = torch.rand(batch.input_ids.shape, dtype=torch.float64)
        of_all = values[batch.loss_mask].requires_grad_()
        weights = torch.rand(batch.input_ids.shape, dtype=torch.float64)
        whole = sequence_means(of_all, batch, 5)
        (whole**2 * weights[batch.loss_mask]).sum().backward()
        shown = replace(batch, streams={"value": values, "weight": weights})

        def work(member: Any, shown: Any = shown) -> tuple[Any, Any]:
            shard = split(shown, member.rank, 3, member)
            mine = shard.at_trained("value").requires_grad_()
            means = sequence_means(mine, shard, 5)
            (means**2 * shard.at_trained("weight")).sum().backward()
            return means.detach(), mine.grad

        parts = on_ranks(3, work)
        columns = batch.loss_mask.nonzero()[:, 1]
        width = -(-batch.input_ids.shape[1] // 3)
        of_shard = (columns - 1) // width
        for rank, (means, gradient) in enumerate(parts):
            torch.testing.assert_close(means, whole.detach()[of_shard == rank])
            torch.testing.assert_close(gradient, of_all.grad[of_shard == rank])  # type: ignore[index]


def test_every_name_of_the_parameters_is_in_its_table() -> None:
    fields = GrpoParams.model_fields
    for field, table in (("advantage", ESTIMATORS), ("ratio", RATIOS), ("surrogate", SURROGATES)):
        assert set(get_args(fields[field].annotation)) == set(table), field
