"""The mathematics of GRPO: advantages inside a group, and the loss of a token.

`rl/estimators.py` has the tables of other advantages, ratios and surrogates, `rl/credits.py` other
ways from rewards to the advantages of tokens.

# P problems, G group_size, N trained tokens of a micro-batch
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from r1pipe.method_params.policies import AdvantageStd, GrpoParams
from r1pipe.models.interfaces import LanguageModel
from r1pipe.records import FinishReason, Group, Rollout
from r1pipe.rewards.metrics import rollout_metrics
from r1pipe.train.batching import MicroBatch
from r1pipe.train.engine import Loss
from r1pipe.train.logprobs import policy_logprobs

EPS = 1e-8
EPS_MODEL = 1e-6
"""Of groups that a reward model has scored: its scores have the rounding of float32."""
MAX_LOG_RATIO = 60.0
"""Differences of log-probabilities are cut here before exp: float32 overflows at 88.7, and infinity
times an advantage of zero is no number."""
BY_MODEL = {"preference", "process"}
"""Rewards that a model gives."""
MISMATCH = ("mismatch_kl", "mismatch_ratio_max")
"""Metrics that compare the log-probabilities of sampler and trainer under the same weights."""
Estimator = Callable[[Tensor, Tensor | float], Tensor]
"""Rewards in float64 and an epsilon, one or [P, 1] -> advantages.  [P, G] -> [P, G]"""


def group_advantages(
    rewards: Tensor, std: AdvantageStd = "population", eps: Tensor | float = EPS
) -> Tensor:
    """Return (r - mean) / std of each group (arXiv:2402.03300, section 4.1.2).  [P, G] -> [P, G]

    `rewards` are float64: equal float32 rewards of 0.1 do not centre to zero, and the division
    would blow the rest up. A group of equal rewards has advantage exactly zero. `none` leaves the
    division out (Dr. GRPO, arXiv:2503.20783): it over-weights very easy and very hard problems.
    `eps`, one or [P, 1], keeps the division from making advantages of rounding.
    """
    assert rewards.dtype == torch.float64, "rewards must be float64"
    is_flat = rewards.max(dim=1, keepdim=True).values == rewards.min(dim=1, keepdim=True).values
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    if std == "population":
        centred = centred / (rewards.std(dim=1, keepdim=True, correction=0) + eps)
    return torch.where(is_flat, torch.zeros_like(centred), centred)


def eps_of(group: Group) -> float:
    """Return the epsilon of a group: a larger one if a model has scored it."""
    return EPS_MODEL if BY_MODEL & group.rollouts[0].rewards.keys() else EPS


class Credit:
    """Outcome supervision: every token has the advantage of its completion (arXiv:2402.03300,
    section 4.1.2). `rl/credits.py` has others."""

    def __init__(self, estimator: Estimator) -> None:
        self.estimator = estimator

    def reward(self, groups: Sequence[Group]) -> None:
        """Reward what this rank has sampled, beside the rules."""

    def settle(self, groups: Sequence[Group]) -> None:
        """Give every token of a rollout its advantage, once all ranks have all of it."""
        self.assign(groups)

    def measures(self, groups: Sequence[Group]) -> dict[str, float]:
        """Return what is logged of a rollout."""
        return rollout_metrics(groups)

    def learn(self, rollouts: Sequence[Rollout], step: int) -> dict[str, float]:
        """Learn from a minibatch beside the policy, as a critic does; return what is logged."""
        return {}

    def assign(self, groups: Sequence[Group]) -> None:
        """Give every token the advantage of its completion, in its group or in the batch.

        Before anything is split into minibatches or among ranks: groups and batch are whole here.
        """
        table = torch.tensor([[r.reward for r in g.rollouts] for g in groups], dtype=torch.float64)
        eps = torch.tensor([[eps_of(group)] for group in groups], dtype=torch.float64)
        advantages = self.estimator(table, eps)
        for group, row in zip(groups, advantages.tolist(), strict=True):
            for rollout, advantage in zip(group.rollouts, row, strict=True):
                rollout.streams["advantage"] = [advantage] * len(rollout.completion_ids)


@dataclass(frozen=True)
class TokenLoss:
    """Per-token losses and what is logged of them.  [N] each"""

    loss: Tensor
    ratio: Tensor
    kl: Tensor
    is_clipped: Tensor


def log_ratio(logprobs: Tensor, others: Tensor) -> Tensor:
    """Return the difference of two log-probabilities, at most `MAX_LOG_RATIO`; a token beyond it
    has no gradient."""
    return (logprobs - others).clamp(max=MAX_LOG_RATIO)


def k3_kl(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Return the k3 estimate of KL(policy || reference), never negative (arXiv:2402.03300, Eq. 4).

    With d = log reference - log policy: exp(d) - d - 1.
    """
    d = log_ratio(reference_logprobs, logprobs)
    return torch.exp(d) - d - 1.0


RatioLevelFn = Callable[[Tensor, MicroBatch], Tensor]
"""Log-ratios of a micro-batch's trained tokens -> those that the loss takes.  [N] -> [N]"""
Surrogate = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Ratios, clipped ratios, advantages, log-probabilities -> what is gained.  [N] each -> [N]"""


def clip(ratio: Tensor, clipped: Tensor, advantages: Tensor, logprobs: Tensor) -> Tensor:
    """Return the lesser gain of the ratio and the clipped one (PPO's, arXiv:2402.03300, Eq. 3)."""
    return torch.minimum(ratio * advantages, clipped * advantages)


def grpo_token_loss(  # noqa: PLR0913 - the formula's own terms
    logprobs: Tensor,
    old_logprobs: Tensor,
    reference_logprobs: Tensor | None,
    advantages: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    kl_coef: float,
    weights: Tensor | float = 1.0,
    at_level: Callable[[Tensor], Tensor] | None = None,
    surrogate: Surrogate = clip,
) -> TokenLoss:
    """Return the clipped policy loss with the KL term in the loss (arXiv:2402.03300, Eq. 3).

    `old_logprobs` are those of the weights that sampled, or of the policy before its first update
    on the rollout, frozen for all of it. Taken again at each minibatch the ratio would always be 1
    and the clip dead. R1 prints a clip of 10, whose lower bound never binds (arXiv:2501.12948v2,
    section 3.2.1). `weights` correct for a sampler that is not quite the policy
    (`truncated_weights`).

    The ratio is that of a token, or what `at_level` makes of the tokens' log-ratios. Other methods
    have another one, or another `surrogate` (`rl/estimators.py`).
    """
    log_ratios = log_ratio(logprobs, old_logprobs)
    ratio = torch.exp(log_ratios if at_level is None else at_level(log_ratios))
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    gain = weights * surrogate(ratio, clipped, advantages, logprobs)
    kl = torch.zeros_like(logprobs)
    if reference_logprobs is not None:
        kl = k3_kl(logprobs, reference_logprobs)
    is_clipped = clipped * advantages < ratio * advantages
    return TokenLoss(-gain + kl_coef * kl, ratio.detach(), kl.detach(), is_clipped)


def truncated_weights(old_logprobs: Tensor, sampler_logprobs: Tensor, limit: float) -> Tensor:
    """Return min(old policy / sampler, limit) for tokens drawn by a sampler that is not the policy
    before the first update: by its arithmetic, or by weights that are older.  [N] -> [N]

    Truncated importance sampling: the expectation is that under the old policy but for the cut,
    which bounds the variance. With the clipped ratio to the old policy it is the decoupled
    objective of arXiv:2110.00641, which arXiv:2505.24298 (AReaL) takes for asynchronous RL.
    """
    return torch.exp(log_ratio(old_logprobs, sampler_logprobs)).clamp(max=limit)


# ---- a minibatch ---------------------------------------------------------------------------------


def grpo_loss(
    model: LanguageModel,
    batch: MicroBatch,
    *,
    params: GrpoParams,
    ratio_level: RatioLevelFn,
    surrogate: Surrogate,
    num_tokens: int,
) -> Loss:
    """Return what a micro-batch adds to the loss of its minibatch, and what is logged of it.

    `num_tokens` counts those of the whole minibatch that are trained, as the stream `weight` does,
    so micro-batching changes nothing.
    """
    logprobs, entropy = policy_logprobs(  # [N], as all below
        model, batch, params.temperature, has_entropy=params.entropy_coef is not None
    )
    sampler_logprobs = batch.at_trained("sampler_logprobs")
    has_old = "old_logprobs" in batch.streams
    old_logprobs = batch.at_trained("old_logprobs") if has_old else logprobs.detach()
    limit = params.sampler_truncation
    token = grpo_token_loss(
        logprobs,
        sampler_logprobs if limit is None else old_logprobs,
        batch.at_trained("reference_logprobs") if params.loss_kl_coef else None,
        batch.at_trained("advantage"),
        clip_low=params.clip_low,
        clip_high=params.clip_high,
        kl_coef=params.loss_kl_coef,
        at_level=lambda log_ratios: ratio_level(log_ratios, batch),
        surrogate=surrogate,
        weights=1.0 if limit is None else truncated_weights(old_logprobs, sampler_logprobs, limit),
    )
    loss = token.loss
    if entropy is not None:
        loss = loss - (params.entropy_coef or 0.0) * entropy
    loss = (loss * batch.at_trained("weight")).sum()
    mismatch = log_ratio(old_logprobs, sampler_logprobs)
    return _measured(loss, token, mismatch, entropy, num_tokens)


def _measured(
    loss: Tensor, token: TokenLoss, mismatch: Tensor, entropy: Tensor | None, num_tokens: int
) -> Loss:
    """Return a micro-batch's loss with what is logged of its tokens."""
    means = {
        "kl": token.kl,
        "clip_frac": token.is_clipped,
        "ratio_mean": token.ratio,
        "mismatch_kl": torch.expm1(mismatch) - mismatch,
    } | ({} if entropy is None else {"entropy": entropy.detach()})
    peaks = {
        "ratio_max": token.ratio,
        "mismatch_ratio_max": mismatch.abs().clamp(max=MAX_LOG_RATIO).exp(),
    }
    return Loss(
        loss,
        sums={name: float(values.sum()) / num_tokens for name, values in means.items()},
        peaks={name: float(v.max()) for name, v in peaks.items() if len(v)},  # of a shard: none
    )


def trained_rollouts(groups: Sequence[Group], params: GrpoParams) -> list[Rollout]:
    """Return the rollouts that enter the loss, numerator and denominator alike.

    `truncated: score` keeps completions that were cut, with the reward they got; `mask` leaves them
    out of both.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    if params.truncated == "score":
        return rollouts
    return [r for r in rollouts if r.finish_reason is not FinishReason.LENGTH]


def with_gradient(
    rollouts: Sequence[Rollout], kl_coef: float, entropy_coef: float = 0.0
) -> Sequence[Rollout]:
    """Return the rollouts that have a gradient: without a KL term and an entropy bonus those with
    an advantage.

    If none has, one stays: the step is that of a gradient of zeros, whose momentum goes on.
    """
    if kl_coef or entropy_coef:
        return rollouts
    return [r for r in rollouts if any(r.streams["advantage"])] or rollouts[:1]
