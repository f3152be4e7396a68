"""The GRPO loss of a token and its gradient, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from r1pipe.rl.objective import grpo_token_loss, k3_kl
from r1pipe.train.aggregation import token_weights

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
