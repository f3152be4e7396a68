"""The mathematics of GRPO: advantages inside a group, the loss of a token, and its weight.

`rl/estimators.py` has the tables of other advantages, ratios and surrogates.

# P problems, G group_size, N trained tokens of a micro-batch
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from r1pipe.rl.params import AdvantageStd, Aggregation

EPS = 1e-8
EPS_MODEL = 1e-6
"""Of groups that a reward model has scored: its scores have the rounding of float32."""
MAX_LOG_RATIO = 60.0
"""Differences of log-probabilities are cut here before exp: float32 overflows at 88.7, and infinity
times an advantage of zero is no number."""


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


RatioFunction = Callable[[Tensor], Tensor]
"""Log-ratios of tokens -> those that the loss takes.  [N] -> [N]"""
Surrogate = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Ratios, clipped ratios, advantages, log-probabilities -> what is gained.  [N] each -> [N]"""


def of_tokens(log_ratios: Tensor) -> Tensor:
    """Return each token's own log-ratio (arXiv:2402.03300, Eq. 3)."""
    return log_ratios


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
    ratio_of: RatioFunction = of_tokens,
    surrogate: Surrogate = clip,
) -> TokenLoss:
    """Return the clipped policy loss with the KL term in the loss (arXiv:2402.03300, Eq. 3).

    `old_logprobs` are those of the weights that sampled, frozen for the whole rollout: taken again
    at each minibatch the ratio would always be 1 and the clip dead. The ratio is per token. R1
    prints a clip of 10, whose lower bound never binds (arXiv:2501.12948v2, section 3.2.1).
    `weights` correct for a sampler that is not quite the policy (`truncated_weights`). Other
    methods have another `ratio_of` or `surrogate` (`rl/estimators.py`).
    """
    ratio = torch.exp(ratio_of(log_ratio(logprobs, old_logprobs)))
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    gain = weights * surrogate(ratio, clipped, advantages, logprobs)
    kl = torch.zeros_like(logprobs)
    if reference_logprobs is not None:
        kl = k3_kl(logprobs, reference_logprobs)
    is_clipped = clipped * advantages < ratio * advantages
    return TokenLoss(-gain + kl_coef * kl, ratio.detach(), kl.detach(), is_clipped)


def truncated_weights(old_logprobs: Tensor, sampler_logprobs: Tensor, limit: float) -> Tensor:
    """Return min(policy / sampler, limit) for tokens drawn by a sampler whose arithmetic is another
    than the trainer's; both log-probabilities are those of the weights that sampled.  [N] -> [N]

    Truncated importance sampling: the expectation is that under the policy but for the cut, which
    bounds the variance.
    """
    return torch.exp(log_ratio(old_logprobs, sampler_logprobs)).clamp(max=limit)


def token_weights(
    lengths: Tensor, aggregation: Aggregation, *, num_sequences: int, num_tokens: int, constant: int
) -> Tensor:
    """Return the weight of a token by the length of its sequence.  [N] -> [N]

    The denominators are counts over the whole optimizer step, so micro-batching cannot change the
    loss. `sequence-mean`: 1/|o| inside a sequence, then the mean over sequences (DeepSeekMath);
    `token-mean`: one mean over all tokens (DAPO); `constant`: divided by sequences x a constant
    length (Dr. GRPO); `sequence-sum`: the sum inside a sequence, then the mean over sequences, as
    the log-probability of a whole completion has it (RLOO, REINFORCE).
    """
    if aggregation == "sequence-sum":
        return torch.full_like(lengths, 1.0 / num_sequences)
    if aggregation == "sequence-mean":
        return 1.0 / (lengths * num_sequences)
    if aggregation == "token-mean":
        return torch.full_like(lengths, 1.0 / num_tokens)
    return torch.full_like(lengths, 1.0 / (num_sequences * constant))
