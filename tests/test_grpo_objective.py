"""The GRPO loss and its gradient: by hand, and against a slow float64 loop over tokens."""

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
from r1pipe.rl.objective import grpo_token_loss, k3_kl
from r1pipe.train.aggregation import token_weights
from r1pipe.train.batching import Batching, MicroBatch
from r1pipe.train.engine import TorchEngine
from r1pipe.train.logprobs import completion_logprobs

LN2 = math.log(2)


def one_token(
    ratio: float,
    advantage: float,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    reference_ratio: float | None = None,
    kl_coef: float = 0.0,
) -> tuple[float, float, bool]:
    """Return loss, gradient by the policy's log-probability, and whether the clip acts.

    `reference_ratio` is reference / policy.
    """
    logprob = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    sampler = torch.tensor([-1.0 - math.log(ratio)], dtype=torch.float64)
    reference = None
    if reference_ratio is not None:
        reference = torch.tensor([-1.0 + math.log(reference_ratio)], dtype=torch.float64)
    token = grpo_token_loss(
        logprob,
        sampler,
        reference,
        torch.tensor([advantage], dtype=torch.float64),
        clip_low=clip_low,
        clip_high=clip_high,
        kl_coef=kl_coef,
    )
    token.loss.sum().backward()
    assert logprob.grad is not None
    return token.loss.item(), logprob.grad.item(), bool(token.is_clipped)


@pytest.mark.parametrize(("d", "kl"), [(0.0, 0.0), (LN2, 1 - LN2), (-LN2, LN2 - 0.5)])
def test_k3_is_worked_by_hand(d: float, kl: float) -> None:
    # exp(d) - d - 1: 0; 2 - ln2 - 1 = 0.3069; 1/2 + ln2 - 1 = 0.1931
    logprobs = torch.tensor([-3.0], dtype=torch.float64)
    assert k3_kl(logprobs, logprobs + d).item() == pytest.approx(kl, abs=1e-12)
    assert {0.0: 0.0, LN2: 0.3069, -LN2: 0.1931}[d] == pytest.approx(kl, abs=5e-5)


@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("gap", [-math.inf, -200.0, 200.0, math.inf])
def test_a_token_of_no_probability_leaves_loss_and_gradient_finite(
    gap: float, advantage: float
) -> None:
    # in float32 exp(89) is infinite, and infinity times an advantage of zero is no number
    policy = torch.tensor([-1.0, -2.0], requires_grad=True)
    others = torch.tensor([-1.0 - gap, -2.0])
    token = grpo_token_loss(
        policy,
        others,
        others,
        torch.tensor([advantage, advantage]),
        clip_low=10.0,
        clip_high=10.0,
        kl_coef=0.0 if gap < -1e9 else 0.001,
    )
    token.loss.sum().backward()
    assert policy.grad is not None
    assert torch.isfinite(policy.grad).all()
    assert policy.grad[1].item() == pytest.approx(-advantage)  # the other token is untouched
    if math.isfinite(gap):
        assert torch.isfinite(token.loss).all()


def test_k3_is_never_negative() -> None:
    d = torch.linspace(-8, 8, 401, dtype=torch.float64)
    assert k3_kl(torch.zeros_like(d), d).min().item() >= 0.0


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "is_clipped"),
    [
        (1.0, 2.0, -2.0, -2.0, False),  # on policy: coefficient A
        (1.5, 1.0, -1.2, 0.0, True),  # above, A > 0: the clip acts, nothing more to gain
        (1.1, 1.0, -1.1, -1.1, False),
        (0.5, 1.0, -0.5, -0.5, False),  # below, A > 0: min takes the unclipped side
        (0.5, -1.0, 0.8, 0.0, True),  # below, A < 0: the clip acts
        (0.9, -1.0, 0.9, 0.9, False),
        (1.5, -1.0, 1.5, 1.5, False),  # above, A < 0: the full penalty
        (1.5, 0.0, 0.0, 0.0, False),  # no advantage: there is nothing to clip
    ],
)
def test_the_clipped_loss_and_its_gradient_are_worked_by_hand(
    ratio: float, advantage: float, loss: float, gradient: float, is_clipped: bool
) -> None:
    found = one_token(ratio, advantage)
    assert found[0] == pytest.approx(loss, abs=1e-12)
    assert found[1] == pytest.approx(gradient, abs=1e-12)
    assert found[2] is is_clipped


def test_the_two_sides_of_the_clip_are_their_own() -> None:
    wide_above = {"clip_low": 0.2, "clip_high": 0.5}
    assert one_token(1.4, 1.0, **wide_above)[0] == pytest.approx(-1.4)
    assert one_token(1.6, 1.0, **wide_above)[0] == pytest.approx(-1.5)
    assert one_token(0.7, -1.0, **wide_above)[0] == pytest.approx(0.8)
    wide_below = {"clip_low": 0.5, "clip_high": 0.2}
    assert one_token(0.7, -1.0, **wide_below)[0] == pytest.approx(0.7)
    assert one_token(1.4, 1.0, **wide_below)[0] == pytest.approx(-1.2)


def test_the_clip_of_ten_that_r1_prints_binds_only_above_eleven() -> None:
    ten = {"clip_low": 10.0, "clip_high": 10.0}
    assert one_token(10.9, 1.0, **ten) == (pytest.approx(-10.9), pytest.approx(-10.9), False)
    assert one_token(12.0, 1.0, **ten) == (pytest.approx(-11.0), 0.0, True)
    assert one_token(0.001, -1.0, **ten) == (pytest.approx(0.001), pytest.approx(0.001), False)


def test_one_update_has_the_gradient_coefficient_of_equation_21() -> None:
    # arXiv:2402.03300, Eq. 21: A + beta (reference/policy - 1), times grad log policy; the loss
    # has the opposite sign. A = 0.5, beta = 0.04, reference/policy = 3: 0.5 + 0.08
    loss, gradient, _ = one_token(1.0, 0.5, reference_ratio=3.0, kl_coef=0.04)
    assert gradient == pytest.approx(-0.58)
    assert loss == pytest.approx(-0.5 + 0.04 * (3 - math.log(3) - 1))


def test_the_kl_term_is_added_to_the_loss_even_where_the_clip_acts() -> None:
    loss, gradient, _ = one_token(1.5, 1.0, reference_ratio=2.0, kl_coef=0.1)
    assert loss == pytest.approx(-1.2 + 0.1 * (1 - LN2))
    assert gradient == pytest.approx(-0.1)  # beta (1 - reference/policy) alone


def test_token_weights_are_worked_by_hand() -> None:
    # two sequences of 1 and 3 tokens
    lengths = torch.tensor([1.0, 3.0, 3.0, 3.0])
    counts = {"num_sequences": 2, "num_tokens": 4, "constant": 10}
    found = {
        name: token_weights(lengths, name, **counts).tolist()
        for name in ("sequence-mean", "token-mean", "constant")
    }
    assert found["sequence-mean"] == pytest.approx([1 / 2, 1 / 6, 1 / 6, 1 / 6])
    assert found["token-mean"] == pytest.approx([1 / 4] * 4)
    assert found["constant"] == pytest.approx([1 / 20] * 4)


# ---- a whole update against a slow implementation ------------------------------------------------


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
