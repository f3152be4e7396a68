"""A whole update of GRPO: its loss and gradient against a slow float64 loop over tokens."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import torch
from tiny import advantage_of, model, objective, rollout, set_advantage, tokenizer, update_policy
from torch import Tensor

from r1pipe.method_params.policies import GrpoParams
from r1pipe.records import Rollout
from r1pipe.train.batching import Batching, MicroBatch
from r1pipe.train.engine import TorchEngine
from r1pipe.train.logprobs import completion_logprobs


class RecordingEngine(TorchEngine):
    """Keeps the gradients in place of stepping."""

    def step(self, learning_rate: float) -> float:
        self.gradients = {n: p.grad.clone() for n, p in self.parameters.items()}
        self.model.zero_grad()
        return 0.0


def random_rollouts(count: int, seed: int) -> list[Rollout]:
    """Return rollouts of ragged random tokens whose sampler was somewhat off the policy."""
    rng = random.Random(seed)
    vocab = len(tokenizer())
    rollouts: list[Rollout] = []
    for _ in range(count):
        prompt = [rng.randrange(vocab) for _ in range(rng.randrange(1, 6))]
        tokens = [rng.randrange(vocab) for _ in range(rng.randrange(1, 9))]
        made = rollout(prompt, tokens, [0.0] * len(tokens), rng.choice([-1.3, -0.4, 0.0, 0.9, 2.0]))
        made.index = len(rollouts)
        rollouts.append(made)
    return rollouts


def slow_logprobs(policy: Any, made: Rollout, temperature: float) -> list[Tensor]:
    """Score one sequence, alone and unpadded, by a whole softmax per token, in float64."""
    ids = torch.tensor([[*made.prompt_ids, *made.completion_ids]])
    logits = policy(input_ids=ids).logits[0].double() / temperature
    first = len(made.prompt_ids)
    scores = []
    for place, token in enumerate(made.completion_ids):
        row = logits[first + place - 1]
        scores.append(row[token] - torch.log(torch.exp(row - row.max()).sum()) - row.max())
    return scores


def slow_loss(
    rollouts: Sequence[Rollout],
    rows: Sequence[Sequence[Tensor]],
    reference: Sequence[Sequence[float]],
    chosen: GrpoParams,
) -> Tensor:
    """Add up the loss token by token, with the branches of the clip written out."""
    num_tokens = sum(len(row) for row in rows)
    total = torch.zeros((), dtype=torch.float64)
    for made, row, reference_row in zip(rollouts, rows, reference, strict=True):
        for place, logprob in enumerate(row):
            ratio = torch.exp(logprob - made.streams["sampler_logprobs"][place])
            low, high = 1 - chosen.clip_low, 1 + chosen.clip_high
            if advantage_of(made) > 0 and ratio > high:
                gain: Any = high * advantage_of(made)
            elif advantage_of(made) < 0 and ratio < low:
                gain = low * advantage_of(made)
            else:
                gain = ratio * advantage_of(made)
            d = reference_row[place] - logprob
            value = -gain + chosen.kl_coef * (torch.exp(d) - d - 1)
            share = {
                "sequence-mean": 1 / len(row) / len(rollouts),
                "token-mean": 1 / num_tokens,
                "constant": 1 / (len(rollouts) * chosen.max_tokens),
            }[chosen.aggregation]
            total = total + value * share
    return total


@pytest.fixture(scope="module")
def case() -> tuple[Any, list[Rollout], list[list[float]]]:
    """Return a policy, rollouts with off-policy sampler log-probs, and reference log-probs."""
    policy, rng = model(), random.Random(0)
    rollouts, reference = random_rollouts(7, seed=4), []
    with torch.no_grad():
        for made in rollouts:
            own = [value.item() for value in slow_logprobs(policy, made, 0.7)]
            made.streams["sampler_logprobs"][:] = [v + rng.gauss(0, 0.4) for v in own]
            reference.append([v + rng.gauss(0, 0.5) for v in own])
    return policy, rollouts, reference


def update(
    case: Any, chosen: GrpoParams, batching: Batching
) -> tuple[dict[str, float], dict[str, Tensor]]:
    policy, rollouts, reference = case
    engine = RecordingEngine(copy.deepcopy(policy))
    metrics = update_policy(engine, rollouts, reference, chosen, batching, 0.0)
    return metrics, engine.gradients


def objective_of(aggregation: Any) -> GrpoParams:
    return objective(0.7, 0.2, 0.28, 0.1, aggregation, 11)


ALL_AT_ONCE = Batching(10_000, "padded", tokenizer().pad_token_id)


@pytest.mark.parametrize("aggregation", ["sequence-mean", "token-mean", "constant"])
def test_loss_and_gradient_equal_those_of_the_slow_loop_in_float64(
    case: Any, aggregation: str
) -> None:
    policy, rollouts, reference = case
    chosen = objective_of(aggregation)
    metrics, gradients = update(case, chosen, ALL_AT_ONCE)
    slow = copy.deepcopy(policy).double()
    rows = [slow_logprobs(slow, made, chosen.temperature) for made in rollouts]
    expected = slow_loss(rollouts, rows, reference, chosen)
    expected.backward()
    assert metrics["loss"] == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)
    assert 0.05 < metrics["clip_frac"] < 0.95, "the data should exercise the clip"
    for name, parameter in slow.named_parameters():
        # float32 through two layers against float64
        torch.testing.assert_close(
            gradients[name].double(), parameter.grad, rtol=1e-3, atol=1e-5, msg=name
        )


@pytest.mark.parametrize("aggregation", ["sequence-mean", "token-mean", "constant"])
@pytest.mark.parametrize(
    "batching",
    [
        Batching(1, "padded", tokenizer().pad_token_id),
        Batching(1, "packed", tokenizer().pad_token_id),
        Batching(31, "packed", tokenizer().pad_token_id),
        Batching(10_000, "packed", tokenizer().pad_token_id),
    ],
    ids=["alone", "alone-packed", "some-packed", "all-packed"],
)
def test_neither_micro_batch_nor_layout_changes_loss_or_gradient(
    case: Any, aggregation: str, batching: Batching
) -> None:
    chosen = objective_of(aggregation)
    metrics, gradients = update(case, chosen, ALL_AT_ONCE)
    split_metrics, split_gradients = update(case, chosen, batching)
    for name, value in metrics.items():
        assert split_metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    for name, gradient in gradients.items():
        # sums in another order, in float32
        torch.testing.assert_close(split_gradients[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_metrics_of_an_update_are_means_over_its_tokens(case: Any) -> None:
    policy, rollouts, reference = case
    metrics, _ = update(case, objective_of("token-mean"), ALL_AT_ONCE)
    ratios, kls = [], []
    with torch.no_grad():
        for made, row in zip(rollouts, reference, strict=True):
            own = [value.item() for value in slow_logprobs(policy, made, 0.7)]
            sampler = made.streams["sampler_logprobs"]
            ratios += [math.exp(o - s) for o, s in zip(own, sampler, strict=True)]
            kls += [math.exp(r - o) - (r - o) - 1 for o, r in zip(own, row, strict=True)]
    assert metrics["ratio_mean"] == pytest.approx(sum(ratios) / len(ratios), rel=1e-4)
    assert metrics["ratio_max"] == pytest.approx(max(ratios), rel=1e-4)
    assert metrics["kl"] == pytest.approx(sum(kls) / len(kls), rel=1e-4)


class CountingEngine(RecordingEngine):
    """Counts the sequences that go through the model."""

    def accumulate(self, batches: Iterable[MicroBatch], loss: Any) -> dict[str, float]:
        made = list(batches)
        self.seen = {int(i) for b in made for i in b.sequence_index.unique() if i >= 0}
        return super().accumulate(made, loss)


@pytest.mark.parametrize("aggregation", ["sequence-mean", "token-mean", "constant"])
def test_without_a_kl_term_flat_rollouts_are_not_computed_but_stay_in_the_denominators(
    case: Any, aggregation: Any
) -> None:
    policy, rollouts, _ = case
    flat = {i for i, made in enumerate(rollouts) if advantage_of(made) == 0}
    assert 0 < len(flat) < len(rollouts), "the case should have both kinds"
    chosen = objective(0.7, 0.2, 0.28, 0.0, aggregation, 11)
    engine = CountingEngine(copy.deepcopy(policy))
    metrics = update_policy(engine, rollouts, None, chosen, Batching(31, "padded", 0), 0.0)
    assert engine.seen == set(range(len(rollouts) - len(flat))), "numbered among themselves"
    slow = copy.deepcopy(policy).double()
    rows = [slow_logprobs(slow, made, chosen.temperature) for made in rollouts]
    zeros = [[0.0] * len(row) for row in rows]
    expected = slow_loss(rollouts, rows, zeros, chosen)  # over all, flat ones too
    expected.backward()
    assert metrics["loss"] == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)
    for name, parameter in slow.named_parameters():
        # float32 through two layers against float64
        torch.testing.assert_close(
            engine.gradients[name].double(), parameter.grad, rtol=1e-3, atol=1e-5, msg=name
        )
    # a mean over what was computed: a flat token's ratio is not in it
    ratios = [
        math.exp(logprob.item() - sampled)
        for i, (made, row) in enumerate(zip(rollouts, rows, strict=True))
        for logprob, sampled in zip(row, made.streams["sampler_logprobs"], strict=True)
        if i not in flat
    ]
    assert metrics["ratio_mean"] == pytest.approx(sum(ratios) / len(ratios), rel=1e-4)


def test_with_a_kl_term_every_rollout_is_computed(case: Any) -> None:
    policy, rollouts, reference = case
    engine = CountingEngine(copy.deepcopy(policy))
    update_policy(engine, rollouts, reference, objective_of("constant"), ALL_AT_ONCE, 0.0)
    assert engine.seen == set(range(len(rollouts)))


def test_a_step_without_any_advantage_is_that_of_a_gradient_of_zeros() -> None:
    first, flat = random_rollouts(4, seed=4), random_rollouts(3, seed=9)
    assert any(advantage_of(made) for made in first), "the first step should leave a momentum"
    for made in flat:
        set_advantage(made, 0.0)
    chosen = objective(0.7, 0.2, 0.28, 0.0, "token-mean", 11)
    ours, theirs = TorchEngine(model()), TorchEngine(model())
    for engine in (ours, theirs):
        update_policy(engine, first, None, chosen, ALL_AT_ONCE, 1e-2)
    before = copy.deepcopy(ours.model.state_dict())
    update_policy(ours, flat, None, chosen, ALL_AT_ONCE, 1e-2)
    for parameter in theirs.parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    theirs.step(1e-2)
    for name, value in ours.model.state_dict().items():
        assert torch.equal(value, theirs.model.state_dict()[name]), name
    assert not torch.equal(before["model.norm.weight"], ours.model.model.norm.weight)


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_each_token_is_trained_on_its_own_advantage(layout: Any) -> None:
    # as a process reward gives them. Ratios are 1, so with a mean over three tokens the loss is
    # -(3 - 1 + 4) / 3 = -2
    engine, batching = RecordingEngine(model()), Batching(64, layout, 0)
    rollouts = [rollout([5, 6], [7, 8]), rollout([5], [9])]
    for made, advantages in zip(rollouts, ([3.0, -1.0], [4.0]), strict=True):
        made.streams["advantage"] = advantages
    exact = completion_logprobs(engine, rollouts, 0.7, batching)
    for made, row in zip(rollouts, exact, strict=True):
        made.streams["sampler_logprobs"] = row
    chosen = objective(0.7, 0.2, 0.28, 0.0, "token-mean", 11)
    metrics = update_policy(engine, rollouts, None, chosen, batching, 0.0)
    assert metrics["loss"] == pytest.approx(-2.0, abs=1e-5)
    policy = model().double()
    rows = [slow_logprobs(policy, made, 0.7) for made in rollouts]
    (-(3 * rows[0][0] - rows[0][1] + 4 * rows[1][0]) / 3).backward()
    for name, parameter in policy.named_parameters():
        # float32 through two layers against float64
        torch.testing.assert_close(
            engine.gradients[name].double(), parameter.grad, rtol=1e-3, atol=1e-5, msg=name
        )


def test_an_empty_minibatch_makes_no_step(case: Any) -> None:
    engine = TorchEngine(model())
    before = copy.deepcopy(engine.model.state_dict())
    assert update_policy(engine, [], [], objective_of("token-mean"), ALL_AT_ONCE, 1.0) == {}
    for name, value in engine.model.state_dict().items():
        assert torch.equal(value, before[name])
