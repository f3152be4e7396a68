"""On-policy distillation: the gradient, a policy that becomes its teacher, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_estimators import assert_same_gradients, case, chosen_for, gradient_of_coefficients
from test_estimators import gradient_of_update as gradient
from test_grpo_loop import RUN
from test_supervised import VOCAB, Bigram
from tiny import FakeContext, assert_same_weights, model, problems, save_policy, stage, tokenizer

from r1pipe.errors import Interrupted, StageError
from r1pipe.models.policy import new_model, save_model
from r1pipe.models.tokenizer import train_tokenizer
from r1pipe.policies.setup import Guides, open_teacher, opened
from r1pipe.policies.training import train_policy
from r1pipe.records import Rollout
from r1pipe.rl.credits import assign_kl_advantages


def params(**changes: Any) -> Any:
    values: dict[str, Any] = {
        "seed": 3,
        "format": "chat",
        "num_steps": 6,
        "problems_per_step": 4,
        "group_size": 4,
        "optimizer": {"lr": 1e-2},
        "max_tokens": 8,
    }
    return stage("on-policy-distil").params(**(values | changes))


def test_advantages_are_log_ratios_of_the_teacher() -> None:
    made = Rollout([1], [2, 3], streams={"sampler_logprobs": [-1.0, -2.0]})
    assign_kl_advantages([made], [[-0.5, -4.0]], 1.0)
    assert made.streams["advantage"] == [0.5, -2.0]
    assert made.rewards["kl"] == -1.5


def test_the_gradient_is_that_of_log_policy_times_log_teacher_over_policy() -> None:
    policy, rollouts, teacher = case(is_on_policy=True)
    assign_kl_advantages(rollouts, teacher, 1.0)
    found = gradient(policy, rollouts, None, chosen_for(kl_coef=1.0, kl_in="advantage"))
    expected = gradient_of_coefficients(
        policy,
        rollouts,
        teacher,
        lambda made, own, row, t: row[t] - own[t],
        lambda made: 1 / len(made.completion_ids) / 6,
    )
    assert_same_gradients(found, expected)


def test_its_mean_over_all_tokens_is_the_gradient_of_the_reverse_kl() -> None:
    # every token of the vocabulary once after one prefix, weighed by its probability: the exact KL,
    # as GKD has it, and TRL's DistillationTrainer with beta 1
    policy: Any = Bigram()
    weight = policy.lm_head.weight.detach().clone().requires_grad_()
    own, before = weight[:, 3].log_softmax(0), 3
    drawn = torch.randn(VOCAB, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    teacher = drawn.log_softmax(0)
    (expected,) = torch.autograd.grad((own.exp() * (own - teacher)).sum(), weight)
    made = [
        Rollout([2, before], [v], streams={"sampler_logprobs": [value]})
        for v, value in enumerate(own.tolist())
    ]
    assign_kl_advantages(made, [[value] for value in teacher.tolist()], 1.0)
    for each, probability in zip(made, own.exp().tolist(), strict=True):
        each.streams["advantage"][0] *= probability * VOCAB  # the update has a mean over them
    chosen = params(num_steps=1).as_grpo()
    found = gradient(policy, made, None, chosen)
    assert_same_gradients(found, {"lm_head.weight": expected})


def train(context: FakeContext, teacher: Path, chosen: Any) -> Any:
    policy = model(seed=1)
    given = Guides(teacher=open_teacher(context, teacher, tokenizer(), problems(8), chosen, RUN))
    with opened(context, policy, tokenizer(), chosen.as_grpo(), RUN, given) as run:
        train_policy(run, problems(8))
    return policy


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: Any) -> Path:
    return save_policy(tmp_path_factory.mktemp("teacher"), seed=2)


def test_a_policy_comes_nearer_to_its_teacher(tmp_path: Path, teacher: Path) -> None:
    context = FakeContext(tmp_path)
    train(context, teacher, params(num_steps=24, optimizer={"lr": 2e-2}))
    kl = context.column("reward_kl")  # negative
    assert sum(kl[-4:]) / 4 > 0.7 * sum(kl[:4]) / 4
    by_token = context.column("teacher_kl")
    assert sum(by_token[-4:]) < 0.7 * sum(by_token[:4])
    logged = context.logged[0]
    per_completion = by_token[0] * logged["completion_tokens"]
    assert -kl[0] == pytest.approx(per_completion), "the same KL, of a token and of a completion"
    assert "flat_group_frac" not in logged, "nothing is learned from groups"


def test_a_resumed_run_ends_with_the_weights_of_the_whole_one(
    tmp_path: Path, teacher: Path
) -> None:
    expected = train(FakeContext(tmp_path / "whole"), teacher, params())
    killed = FakeContext(tmp_path / "killed", stop_after=3, saves=True)
    with pytest.raises(Interrupted, match="stopped by the test"):
        train(killed, teacher, params())
    found = killed.checkpoints.latest()
    assert found is not None
    assert not list(found[1].glob("reference*")), "a teacher is not written"
    assert_same_weights(train(FakeContext(tmp_path / "killed"), teacher, params()), expected)


def test_a_teacher_with_another_tokenizer_is_refused(tmp_path: Path) -> None:
    other = train_tokenizer([problem.prompt for problem in problems(8)], 300)
    small = {"hidden_size": 8, "num_layers": 1, "num_heads": 1, "num_kv_heads": 1}
    made = new_model(other, **small, intermediate_size=8, max_positions=64, init_std=0.1, seed=1)
    save_model(made, other, tmp_path / "other")
    context: Any = FakeContext(tmp_path)
    with pytest.raises(StageError, match="teacher: its tokenizer is another than the policy's"):
        open_teacher(context, tmp_path / "other", tokenizer(), problems(8), params(), RUN)
