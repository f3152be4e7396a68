"""Groups, their rewards and a reference for RLOO, on the rollouts of `fixed_batch`."""

from __future__ import annotations

from pathlib import Path

from fixed_batch import MAX_TOKENS, TEMPERATURE, Gradients, policy, rollouts
from tiny import frozen_logprobs, grpo_params, problems, tokenizer, update_policy
from torch import Tensor

from r1pipe.records import Group
from r1pipe.rl.credits import KlCredit
from r1pipe.rl.estimators import ESTIMATORS
from r1pipe.train.batching import Batching
from r1pipe.train.reference import Reference

KL_COEF = 0.05
GROUP_SIZE = 4
REWARDS = (1.0, 0.0, 0.5, 0.0, 1.0, 1.0, 0.25, 0.0)
GOLDEN = Path(__file__).with_name("trl_rloo_golden.json")
"""What TRL 1.16 gave: advantages, the gradient's norm, and a few of its elements."""


def reference() -> Reference:
    """Return a frozen policy of other weights."""
    return Reference(policy(seed=12))


def groups() -> list[Group]:
    """Return two groups of four, rewarded; their log-probabilities are the policy's own."""
    made = rollouts()
    batching = Batching(10_000, "padded", tokenizer().pad_token_id)
    rows = frozen_logprobs(policy(), made, TEMPERATURE, batching)
    for rollout, row, reward in zip(made, rows, REWARDS, strict=True):
        rollout.streams["sampler_logprobs"] = row
        rollout.reward = reward
    parts = [made[start : start + GROUP_SIZE] for start in range(0, len(made), GROUP_SIZE)]
    return [Group(problem, part) for problem, part in zip(problems(2), parts, strict=True)]


def our_rloo(micro_batch_tokens: int = 64) -> tuple[list[float], dict[str, Tensor]]:
    """Return the advantage of every completion, and all gradients of one update."""
    chosen = grpo_params(
        advantage="leave-one-out",
        surrogate="none",
        aggregation="sequence-sum",
        kl_in="reward",
        kl_coef=KL_COEF,
        temperature=TEMPERATURE,
        max_tokens=MAX_TOKENS,
    )
    batching = Batching(micro_batch_tokens, "padded", tokenizer().pad_token_id)
    made, engine = groups(), Gradients(policy())
    KlCredit(ESTIMATORS[chosen.estimator], chosen, reference(), batching).settle(made)
    flat = [rollout for group in made for rollout in group.rollouts]
    update_policy(engine, flat, None, chosen, batching, 0.0)
    return [rollout.streams["advantage"][0] for rollout in flat], engine.found
