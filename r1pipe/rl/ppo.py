"""PPO's critic: values of tokens, advantages made of them, and the critic's own updates.

Generalized advantage estimation (arXiv:1506.02438, Eq. 16) and the clipped loss of values beside
PPO's policy loss (arXiv:1707.06347), as DeepSeekMath has it (arXiv:2402.03300, Eq. 1, 2 and 17) and
InstructGPT's KL in the reward (arXiv:2203.02155). The policy's loss is GRPO's own.

# N sampled tokens of a micro-batch; state t is what is before token t
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress
from math import isfinite
from pathlib import Path
from statistics import pstdev, pvariance

import torch
from torch import Tensor

from r1pipe.errors import StageError
from r1pipe.method_params.policies import PpoParams
from r1pipe.models.interfaces import LanguageModel
from r1pipe.records import Group, Rollout
from r1pipe.rewards.metrics import rollout_metrics, without_groups
from r1pipe.rl.objective import Credit
from r1pipe.train.batching import (
    Batching,
    MicroBatch,
    by_sequence,
    count_loss_tokens,
    micro_batches,
)
from r1pipe.train.engine import Engine, Loss
from r1pipe.train.logprobs import hidden_states
from r1pipe.train.reference import Anchor
from r1pipe.train.schedule import learning_rate

FOLDER = "critic"
"""In a checkpoint: the critic's weights and optimizer."""
WHITEN_EPS = 1e-8


def advantages_of_values(
    rewards: Sequence[float], values: Sequence[float], gamma: float, gae_lambda: float
) -> list[float]:
    """Return the advantage of every token (arXiv:1506.02438, Eq. 16), from the last one back.

    delta_t = r_t + gamma V_(t+1) - V_t, and A_t = delta_t + gamma lambda A_(t+1). Nothing comes
    after the last token, whether the completion ended there or was cut.

    >>> advantages_of_values([0.0, 1.0], [0.5, 0.25], 1.0, 1.0)
    [0.5, 0.75]
    """
    advantages, following, after = list[float](), 0.0, 0.0
    for reward, value in zip(reversed(rewards), reversed(values), strict=True):
        delta = reward + gamma * following - value
        after = delta + gamma * gae_lambda * after
        following = value
        advantages.append(after)
    return advantages[::-1]


def whitened(values: Tensor) -> Tensor:
    """Return values with mean 0 and variance 1, by the sample variance, as TRL has it.  [N] -> [N]

    One value alone, which has no variance, stays as it is.
    """
    if len(values) < 2:
        return values
    return (values - values.mean()) * torch.rsqrt(values.var(correction=1) + WHITEN_EPS)


def token_values(model: LanguageModel, batch: MicroBatch) -> Tensor:
    """Return the value of the state before every sampled token, in row order.  -> [N]"""
    predicts = batch.loss_mask[:, 1:]  # position t is the state before token t + 1
    states = hidden_states(model, batch)[:, : predicts.shape[1]][predicts]  # [N, H]
    values: Tensor = model.score(states)[:, 0].float()
    return values


def value_loss(
    model: LanguageModel, batch: MicroBatch, *, clip: float | None, num_tokens: int
) -> Loss:
    """Return what a micro-batch adds to the critic's loss: half of the squared error, meaned.

    With `clip` a value counts as far from the one of the rollout as that at most, where this makes
    the error larger (the pessimistic bound of PPO's own code).
    """
    values, returns = token_values(model, batch), batch.at_trained("return")
    error, is_clipped = (values - returns) ** 2, torch.zeros_like(values)
    if clip is not None:
        old = batch.at_trained("value")
        near = (values - old).clamp(-clip, clip) + old
        other = (near - returns) ** 2
        is_clipped = (other > error).float()
        error = torch.maximum(error, other)
    return Loss(
        0.5 * error.sum() / num_tokens,
        sums={"value_clip_frac": float(is_clipped.sum()) / num_tokens},
    )


class Critic:
    """A model with a scalar head, trained beside the policy; its engine may be of several ranks."""

    def __init__(self, engine: Engine, params: PpoParams, batching: Batching) -> None:
        self.engine = engine
        self.params = params
        self.batching = batching

    def values(self, rollouts: Sequence[Rollout]) -> list[list[float]]:
        """Return the value before every sampled token of each rollout."""
        numbered = [
            Rollout(r.prompt_ids, r.completion_ids, index=i, trained=r.trained)
            for i, r in enumerate(rollouts)
        ]
        batches = list(micro_batches(numbered, self.batching))
        return by_sequence(batches, self.engine.per_token(batches, token_values), len(rollouts))

    def update(self, rollouts: Sequence[Rollout], step: int) -> dict[str, float]:
        """Make one step towards the returns of a minibatch; return what is logged.

        Raises StageError, before any weight changes, if the loss or its gradient is not finite.
        """
        num_tokens = count_loss_tokens(rollouts)
        if not num_tokens:
            return {}
        optimizer = self.params.critic_optimizer or self.params.optimizer
        rate = learning_rate(step, self.params.num_steps, optimizer)
        loss = partial(value_loss, clip=self.params.value_clip, num_tokens=num_tokens)
        measures = self.engine.accumulate(micro_batches(rollouts, self.batching), loss)
        norm = self.engine.step(rate) if isfinite(measures["loss"]) else measures["loss"]
        if not isfinite(norm):
            raise StageError(
                f"step {step + 1}: the critic's loss or its gradient is not finite; the step was"
                " not made. Usual cause: a learning rate that is too high"
                f" (params.critic_optimizer.lr: {optimizer.lr:g})"
            )
        return {
            "value_loss": measures["loss"],
            "value_clip_frac": measures["value_clip_frac"],
            "value_grad_norm": norm,
        }

    def save(self, folder: Path) -> None:
        """Write the critic into a checkpoint."""
        (folder / FOLDER).mkdir(exist_ok=True)
        self.engine.save(folder / FOLDER)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        self.engine.load(folder / FOLDER)


@dataclass
class ValueCredit(Credit):
    """Advantages by generalized advantage estimation, from the values of a critic."""

    critic: Critic
    reference: Anchor | None
    temperature: float
    batching: Batching

    def settle(self, groups: Sequence[Group]) -> None:
        """Give every sampled token its value, its return and its advantage.

        A token's reward is -kl_coef (log policy - log reference) at the weights that sampled it;
        the last one has the completion's reward besides. The sum of the KL is among the rewards as
        `kl`, negative, as other methods have it.
        """
        params = self.critic.params
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        rows = None
        if self.reference is not None:
            rows = self.reference.logprobs(rollouts, self.temperature, self.batching)
        values = self.critic.values(rollouts)
        for number, (rollout, of_tokens) in enumerate(zip(rollouts, values, strict=True)):
            rewards = token_rewards(rollout, rows[number] if rows else None, params.kl_coef)
            found = advantages_of_values(rewards, of_tokens, params.gamma, params.gae_lambda)
            returns = [a + v for a, v in zip(found, of_tokens, strict=True)]
            rollout.streams["value"] = spread(of_tokens, rollout)
            rollout.streams["return"] = spread(returns, rollout)
            rollout.streams["advantage"] = spread(found, rollout)
        if params.whiten:
            whiten(rollouts)

    def measures(self, groups: Sequence[Group]) -> dict[str, float]:
        """Return what is logged of a rollout: how rewards differ in it, in place of in groups."""
        rewards = [rollout.reward for group in groups for rollout in group.rollouts]
        return without_groups(rollout_metrics(groups)) | {"rewards_std": pstdev(rewards)}

    def learn(self, rollouts: Sequence[Rollout], step: int) -> dict[str, float]:
        """Make the critic's step on a minibatch; return what is logged."""
        fit = explained_variance(rollouts)
        return self.critic.update(rollouts, step) | ({} if fit is None else {"value_fit": fit})


def token_rewards(rollout: Rollout, row: Sequence[float] | None, kl_coef: float) -> list[float]:
    """Return the reward of every sampled token, given the reference's log-probabilities."""
    own = list(compress(rollout.streams["sampler_logprobs"], _mask(rollout)))
    reference = own if row is None else list(compress(row, _mask(rollout)))
    kl = [r - o for r, o in zip(reference, own, strict=True)]
    if row is not None:
        rollout.rewards["kl"] = sum(kl)
    rewards = [kl_coef * each for each in kl]
    rewards[-1] += rollout.reward
    return rewards


def whiten(rollouts: Sequence[Rollout]) -> None:
    """Whiten the advantages of all sampled tokens of a rollout together."""
    rows = [list(compress(r.streams["advantage"], _mask(r))) for r in rollouts]
    flat = torch.tensor([value for row in rows for value in row], dtype=torch.float64)
    found = iter(whitened(flat).tolist())
    for rollout, row in zip(rollouts, rows, strict=True):
        rollout.streams["advantage"] = spread([next(found) for _ in row], rollout)


def spread(values: Sequence[float], rollout: Rollout) -> list[float]:
    """Return the values of sampled tokens as those of all tokens of a completion, else 0."""
    found = iter(values)
    return [next(found) if is_sampled else 0.0 for is_sampled in _mask(rollout)]


def explained_variance(rollouts: Sequence[Rollout]) -> float | None:
    """Return 1 - var(return - value) / var(return) over sampled tokens; None for equal returns."""
    pairs = [
        pair
        for r in rollouts
        for pair in compress(zip(r.streams["return"], r.streams["value"], strict=True), _mask(r))
    ]
    variance = pvariance([wanted for wanted, _ in pairs]) if pairs else 0.0
    if not variance:
        return None
    return 1.0 - pvariance([wanted - value for wanted, value in pairs]) / variance


def _mask(rollout: Rollout) -> Sequence[bool]:
    return [True] * len(rollout.completion_ids) if rollout.trained is None else rollout.trained
