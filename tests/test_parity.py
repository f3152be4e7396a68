"""The parity check: it lets a faithful sampler pass, finds out every other, and changes nothing."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import (
    FakeContext,
    generator,
    grpo_of,
    grpo_params,
    model,
    objective,
    problems,
    rollout,
    stage,
    tokenizer,
    update_policy,
)

from r1pipe.errors import StageError
from r1pipe.generate.protocol import Generator, Request, Sampled, SamplingParams
from r1pipe.method_params.policies import GrpoParams
from r1pipe.policies.parity import changed, changed_parameters, check_parity, mismatch
from r1pipe.policies.setup import opened
from r1pipe.policies.training import train_policy
from r1pipe.rl import grpo
from r1pipe.rl.objective import grpo_token_loss, truncated_weights
from r1pipe.train.batching import Batching
from r1pipe.train.engine import TorchEngine
from r1pipe.train.logprobs import completion_logprobs

BATCHING = Batching(256, "padded", 0)
PARAMS = grpo_params(temperature=0.7, max_tokens=16, format="chat")


class Sampler:
    """A sampler with weights of its own; subclasses do it wrong."""

    def __init__(self, policy: Any) -> None:
        self.own = copy.deepcopy(policy)
        self.sampler = generator(self.own)
        self.pushes = 0

    def generate(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Sampled]:
        yield from self.sampler.generate(requests, sampling)

    def load_weights(self, tensors: Iterable[tuple[str, Any]]) -> None:
        self.pushes += 1
        self.sampler.load_weights((n, t.clone()) for n, t in tensors if self.arrives(n))

    def arrives(self, name: str) -> bool:
        return True

    def sleep(self) -> None:
        return

    def close(self) -> None:
        return


class StaleEmbedding(Sampler):
    def arrives(self, name: str) -> bool:
        return "embed_tokens" not in name


class StaleLastLayer(Sampler):
    def arrives(self, name: str) -> bool:
        return "layers.1.mlp" not in name


class RawLogprobs(Sampler):
    """Says log-probabilities before the temperature."""

    def generate(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Sampled]:
        for made in super().generate(requests, sampling):
            told = [p * sampling.temperature for p in made.logprobs]
            yield Sampled(made.index, made.token_ids, told, made.finish_reason)


class SilentSampler(Sampler):
    def generate(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Sampled]:
        for made in super().generate(requests, sampling):
            yield Sampled(made.index, made.token_ids, [], made.finish_reason)


def gate(sampler: Generator, engine: TorchEngine, tolerance: float = 1e-3) -> dict[str, float]:
    return check_parity(
        grpo_of(PARAMS, engine, sampler, batching=BATCHING), problems(10), tolerance
    )


def test_a_faithful_sampler_passes_and_everything_is_as_before() -> None:
    policy = model()
    before = copy.deepcopy(policy.state_dict())
    sampler = Sampler(policy)
    found = gate(sampler, TorchEngine(policy))
    assert 0 <= found["parity"] < 1e-5
    assert 0 <= found["parity_after_push"] < 1e-5
    assert sampler.pushes == 2, "the changed weights, and the policy's again"
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert torch.equal(sampler.own.state_dict()[name], before[name])


@pytest.mark.parametrize("kind", [StaleEmbedding, StaleLastLayer])
def test_a_weight_that_does_not_arrive_stops_the_stage(kind: type[Sampler]) -> None:
    policy = model()
    before = copy.deepcopy(policy.state_dict())
    with pytest.raises(StageError, match=r"do not arrive .* before a push .* after pushing"):
        gate(kind(policy), TorchEngine(policy))
    assert all(torch.equal(t, before[n]) for n, t in policy.state_dict().items())


def test_log_probs_before_the_temperature_stop_the_stage() -> None:
    policy = model()
    with pytest.raises(StageError, match="disagree about the same weights"):
        gate(RawLogprobs(policy), TorchEngine(policy))


def test_a_sampler_without_log_probs_is_refused() -> None:
    policy = model()
    with pytest.raises(StageError, match="gave no log-probabilities"):
        gate(SilentSampler(policy), TorchEngine(policy))


def test_the_tolerance_decides() -> None:
    policy = model()
    with pytest.raises(StageError, match=r"at most 1e-12 on average"):
        gate(Sampler(policy), TorchEngine(policy), 1e-12)


def test_a_policy_that_no_change_moves_cannot_be_checked() -> None:
    policy = model()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
    with pytest.raises(StageError, match="cannot be checked"):
        gate(Sampler(policy), TorchEngine(policy))


def test_the_change_reaches_head_norm_and_outer_layers_and_is_taken_back_after_an_error() -> None:
    policy = model()
    engine = TorchEngine(policy)
    before = {n: p.detach().clone() for n, p in policy.named_parameters()}
    names = list(changed_parameters(engine))
    assert {"model.embed_tokens.weight", "model.norm.weight"} <= set(names)

    def fail_inside() -> None:
        with changed(engine, 2.0):
            for name, parameter in policy.named_parameters():
                factor = 2.0 if name in names else 1.0
                assert torch.equal(parameter, before[name] * factor)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert all(torch.equal(p, before[n]) for n, p in policy.named_parameters())


def test_mismatch_by_hand() -> None:
    # differences of the trainer's from the sampler's: 0, ln 2, -ln 2
    row = rollout([1], [2, 3, 4], [-1.0, -2.0, -3.0])
    found = mismatch([row], [[-1.0, -2.0 + math.log(2), -3.0 - math.log(2)]])
    assert found.num_tokens == 3
    assert found.mean == pytest.approx(2 * math.log(2) / 3)
    # k3: 0, (2 - 1 - ln 2), (1/2 - 1 + ln 2)
    assert found.kl == pytest.approx((2 - 1 + 0.5 - 1) / 3)
    assert found.ratio_max == pytest.approx(2.0)


def test_a_sampler_that_is_far_off_gives_a_number_and_no_overflow() -> None:
    found = mismatch([rollout([1], [2], [-1000.0])], [[-1.0]])
    assert found.mean == 999.0
    assert found.ratio_max == pytest.approx(math.exp(60))
    assert found.kl == pytest.approx(math.exp(60))


# ---- truncated importance sampling ---------------------------------------------------------------


def test_truncated_weights_by_hand() -> None:
    old, sampler = torch.tensor([0.5, 0.2, 0.9]).log(), torch.tensor([0.25, 0.4, 0.1]).log()
    assert truncated_weights(old, sampler, 3.0).tolist() == pytest.approx([2.0, 0.5, 3.0])


def test_the_corrected_gradient_is_the_policys_times_the_truncated_weight() -> None:
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    old = logprobs.detach().clone()
    token = grpo_token_loss(
        logprobs,
        old,
        None,
        torch.tensor([1.0, -1.0]),
        clip_low=0.2,
        clip_high=0.2,
        kl_coef=0.0,
        weights=torch.tensor([0.5, 2.0]),
    )
    token.loss.sum().backward()
    # the ratio is 1, so its gradient is the advantage's times the weight
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-0.5, 2.0])


def truncated(limit: float | None) -> GrpoParams:
    return objective(1.0, 0.2, 0.2, 0.0, "token-mean", 16, limit)


def test_with_an_exact_sampler_the_correction_changes_nothing() -> None:
    results = []
    for truncation in (None, 2.0):
        policy = model()
        engine = TorchEngine(policy)
        rows = [rollout([5, 6], [7, 8, 9], advantage=1.0), rollout([5], [9, 9], advantage=-1.0)]
        exact = completion_logprobs(engine, rows, 1.0, BATCHING)
        for row, logprobs in zip(rows, exact, strict=True):
            row.streams["sampler_logprobs"][:] = logprobs
        old = None if truncation is None else exact
        results.append(
            update_policy(engine, rows, None, truncated(truncation), BATCHING, 1e-3, old)
        )
        assert results[-1]["mismatch_kl"] == pytest.approx(0.0, abs=1e-6)
        assert results[-1]["mismatch_ratio_max"] == pytest.approx(1.0, abs=1e-5)
    assert results[0] == pytest.approx(results[1], abs=1e-6)


def test_the_mismatch_of_a_sampler_that_is_off_is_measured_and_corrected() -> None:
    policy = model()
    engine = TorchEngine(policy)
    rows = [rollout([5, 6], [7, 8], advantage=1.0)]
    exact = completion_logprobs(engine, rows, 1.0, BATCHING)[0]
    # the sampler gave each token twice the policy's probability: difference -ln 2
    rows[0].streams["sampler_logprobs"][:] = [p + math.log(2) for p in exact]
    found = update_policy(engine, rows, None, truncated(2.0), BATCHING, 0.0, [exact])
    assert found["ratio_mean"] == pytest.approx(1.0)
    assert found["loss"] == pytest.approx(-0.5)
    assert found["mismatch_kl"] == pytest.approx(math.log(2) - 0.5, rel=1e-4)
    assert found["mismatch_ratio_max"] == pytest.approx(2.0, rel=1e-4)


def test_the_only_update_of_a_rollout_knows_the_log_probs_that_correct_it() -> None:
    # its weights are those that sampled, so its own log-probabilities are those of another pass
    results, policies = [], []
    for is_told in (True, False):
        policies.append(model())
        engine = TorchEngine(policies[-1])
        rows = [rollout([5, 6], [7, 8, 9], advantage=1.0), rollout([5], [9, 9], advantage=-1.0)]
        exact = completion_logprobs(engine, rows, 1.0, BATCHING)
        for row, logprobs in zip(rows, exact, strict=True):
            row.streams["sampler_logprobs"][:] = [p - math.log(1.5) for p in logprobs]
        old = exact if is_told else None
        results.append(update_policy(engine, rows, None, truncated(1.2), BATCHING, 1e-3, old))
    assert results[0] == pytest.approx(results[1], rel=1e-5, abs=1e-6)
    # ratio 1, every weight cut at 1.2; 3 tokens of advantage 1 and 2 of -1: -1.2 x (3 - 2) / 5
    assert results[1]["loss"] == pytest.approx(-0.24)
    for name, value in policies[0].state_dict().items():
        torch.testing.assert_close(value, policies[1].state_dict()[name], msg=name)


@pytest.mark.parametrize(("minibatches", "passes"), [(1, 0), (2, 2)])
def test_log_probs_are_computed_again_only_where_several_updates_need_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minibatches: int, passes: int
) -> None:
    called = []

    def counted(*args: Any) -> Any:
        called.append(1)
        return completion_logprobs(*args)

    monkeypatch.setattr(grpo, "completion_logprobs", counted)
    chosen = grpo_params(
        num_steps=2 * minibatches, minibatches_per_rollout=minibatches, sampler_truncation=2.0
    )
    run = stage("grpo").run_model(max_batch=64)
    with opened(FakeContext(tmp_path), model(), tokenizer(), chosen, run) as made:
        train_policy(made, problems(8, max_chars=18))
    assert len(called) == passes


# ---- what is refused -----------------------------------------------------------------------------


def test_a_top_p_cut_is_refused_where_ratios_are_taken() -> None:
    assert grpo_params(top_p=1.0).top_p == 1.0
    with pytest.raises(ValueError, match="draws from a cut distribution"):
        grpo_params(top_p=0.95)
