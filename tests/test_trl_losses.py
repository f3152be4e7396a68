"""The GRPO loss and its gradient, RLOO's advantages and gradient, and the mean of on-policy
distillation over the next token equal TRL 1.16's (values made by benchmarks/trl_losses.py,
benchmarks/trl_rloo.py and benchmarks/trl_distil.py)."""

from __future__ import annotations

import json
import math

import fixed_distil
import fixed_rloo
import pytest
from fixed_batch import (
    AGGREGATIONS,
    CLIP_HIGH,
    CLIP_LOW,
    GOLDEN,
    OTHERS,
    TEMPERATURE,
    our_loss,
    policy,
    rollouts,
    summary,
)
from tiny import advantage_of, frozen_logprobs, tokenizer

from r1pipe.train.batching import Batching

RLOO = json.loads(fixed_rloo.GOLDEN.read_text())
DISTIL = json.loads(fixed_distil.GOLDEN.read_text())["losses"]
LOSSES = json.loads(GOLDEN.read_text())["losses"]


@pytest.mark.parametrize("micro_batch_tokens", [1, 64, 10_000])
@pytest.mark.parametrize("name", [*AGGREGATIONS, *OTHERS])
def test_loss_and_gradient_equal_those_of_trl(name: str, micro_batch_tokens: int) -> None:
    found, expected = summary(*our_loss(name, micro_batch_tokens)), LOSSES[name]
    assert found["loss"] == pytest.approx(expected["loss"], abs=1e-5)
    assert found["norm"] == pytest.approx(expected["norm"], abs=1e-5)
    for parameter, values in expected["gradients"].items():
        assert max(map(abs, values)) > 1e-4, "a gradient of zeros shows nothing"
        assert found["gradients"][parameter] == pytest.approx(values, abs=1e-5)


def test_the_losses_differ_and_the_clip_acts_on_both_sides() -> None:
    assert len({round(loss["loss"], 3) for loss in LOSSES.values()}) == len(LOSSES)
    batching = Batching(10_000, "padded", 0)
    rows = frozen_logprobs(policy(), rollouts(), TEMPERATURE, batching)
    signed = [
        (math.exp(new - old), advantage_of(rollout))
        for rollout, row in zip(rollouts(), rows, strict=True)
        for new, old in zip(row, rollout.streams["sampler_logprobs"], strict=True)
    ]
    assert any(ratio > 1 + CLIP_HIGH and advantage > 0 for ratio, advantage in signed)
    assert any(ratio < 1 - CLIP_LOW and advantage < 0 for ratio, advantage in signed)
    assert any(1 - CLIP_LOW < ratio < 1 + CLIP_HIGH for ratio, _ in signed)


@pytest.mark.parametrize("micro_batch_tokens", [1, 64, 10_000])
def test_advantages_and_gradient_of_rloo_equal_those_of_trl(micro_batch_tokens: int) -> None:
    advantages, gradients = fixed_rloo.our_rloo(micro_batch_tokens)
    found = summary(0.0, gradients)
    assert advantages == pytest.approx(RLOO["advantages"], abs=1e-5)
    assert found["norm"] == pytest.approx(RLOO["norm"], abs=1e-5)
    for parameter, values in RLOO["gradients"].items():
        assert max(map(abs, values)) > 1e-4, "a gradient of zeros shows nothing"
        assert found["gradients"][parameter] == pytest.approx(values, abs=1e-5)


def test_the_advantages_of_rloo_have_the_kl_taken_off() -> None:
    size = fixed_rloo.GROUP_SIZE
    for start in range(0, len(fixed_rloo.REWARDS), size):
        rewards = fixed_rloo.REWARDS[start : start + size]
        alone = [r - (sum(rewards) - r) / (size - 1) for r in rewards]
        there = RLOO["advantages"][start : start + size]
        assert max(abs(a - b) for a, b in zip(alone, there, strict=True)) > 0.1


@pytest.mark.parametrize("micro_batch_tokens", [1_000, 20_000])
def test_distillation_of_every_next_token_is_the_reverse_kl_of_trl(micro_batch_tokens: int) -> None:
    found = summary(*fixed_distil.our_loss("reverse_kl", micro_batch_tokens))
    expected = DISTIL["reverse_kl"]
    assert found["loss"] == pytest.approx(expected["loss"], abs=1e-5)
    assert found["norm"] == pytest.approx(expected["norm"], abs=1e-5)
    for parameter, values in expected["gradients"].items():
        assert max(map(abs, values)) > 1e-4, "a gradient of zeros shows nothing"
        assert found["gradients"][parameter] == pytest.approx(values, abs=1e-5)


def test_a_token_of_a_completion_has_the_advantage_that_it_has_as_a_next_token() -> None:
    batching = Batching(20_000, "padded", tokenizer().pad_token_id)
    tokens = fixed_distil.settled(fixed_distil.next_tokens(), batching)
    apart = {(*made.prompt_ids, *made.completion_ids): made.streams["advantage"] for made in tokens}
    for made in fixed_distil.settled(fixed_distil.completions(), batching):
        for place, advantage in enumerate(made.streams["advantage"]):
            there = apart[(*made.prompt_ids, *made.completion_ids[: place + 1])]
            assert [advantage] == pytest.approx(there, abs=1e-5)
