"""What tells the methods of one family apart: advantages, ratios and surrogates, each in a table.

GRPO's own are in `rl/objective.py`, which is checked line by line; here are the others, so a method
is one pure function and one line of a table. `docs/methods.md` says which fields make which method.

# P problems, G group_size, N trained tokens of a micro-batch
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from r1pipe.method_params.policies import Advantage, RatioLevel, SurrogateName
from r1pipe.rl.objective import Estimator, Surrogate, clip, group_advantages
from r1pipe.train.batching import MicroBatch
from r1pipe.train.sequence_parallel import add_over_shards

# ---- advantages ----------------------------------------------------------------------------------


def _group(rewards: Tensor, eps: Tensor | float) -> Tensor:
    return group_advantages(rewards, "population", eps)


def _group_mean(rewards: Tensor, eps: Tensor | float) -> Tensor:
    return group_advantages(rewards, "none", eps)


def leave_one_out(rewards: Tensor, eps: Tensor | float) -> Tensor:
    """Return r - mean of the group's others (RLOO, arXiv:2402.14740, Eq. 8).

    That is the centred reward times G / (G - 1).
    """
    size = rewards.shape[1]
    return group_advantages(rewards, "none", eps) * (size / (size - 1))


def batch_mean(rewards: Tensor, eps: Tensor | float) -> Tensor:
    """Return r - mean of the batch: REINFORCE with a baseline."""
    return group_advantages(rewards.reshape(1, -1), "none").reshape(rewards.shape)


def batch_scaled(rewards: Tensor, eps: Tensor | float) -> Tensor:
    """Return (r - mean) / std of the batch (REINFORCE++, arXiv:2501.03262, Eq. 8)."""
    widest = float(torch.as_tensor(eps).max())
    return group_advantages(rewards.reshape(1, -1), "population", widest).reshape(rewards.shape)


def group_batch_scaled(rewards: Tensor, eps: Tensor | float) -> Tensor:
    """Return r - mean of the group, over the batch's std of that (REINFORCE++-baseline)."""
    return batch_scaled(group_advantages(rewards, "none", eps), eps)


def plain_reward(rewards: Tensor, eps: Tensor | float) -> Tensor:
    """Return the reward itself: REINFORCE without a baseline."""
    return rewards


def indicator(rewards: Tensor, eps: Tensor | float) -> Tensor:
    """Return 1 for a completion with a reward above 0, else 0 (online RFT, arXiv:2402.03300,
    Eq. 11)."""
    return (rewards > 0).to(rewards.dtype)


ESTIMATORS: Mapping[Advantage, Estimator] = {
    "group": _group,
    "group-mean": _group_mean,
    "leave-one-out": leave_one_out,
    "batch-mean": batch_mean,
    "batch": batch_scaled,
    "group-batch": group_batch_scaled,
    "reward": plain_reward,
    "indicator": indicator,
}


# ---- ratios --------------------------------------------------------------------------------------


def of_tokens(log_ratios: Tensor, batch: MicroBatch, num_sequences: int) -> Tensor:
    """Return each token's own log-ratio (arXiv:2402.03300, Eq. 3).  [N] -> [N]"""
    return log_ratios


def of_sequences(log_ratios: Tensor, batch: MicroBatch, num_sequences: int) -> Tensor:
    """Return the mean log-ratio of each token's completion (GSPO, arXiv:2507.18071, Eq. 7): the
    ratio is that of the whole completion, to the power of 1/|o|.  [N] -> [N]"""
    return sequence_means(log_ratios, batch, num_sequences)


def of_sequences_by_token(log_ratios: Tensor, batch: MicroBatch, num_sequences: int) -> Tensor:
    """Return what has the value of `of_sequences`, and the gradient of the token's own log-ratio
    (GSPO-token, arXiv:2507.18071, Eq. 14).  [N] -> [N]

    Tokens of one completion may then have advantages of their own. If they all have the same, and
    weigh the same, the gradient is that of `of_sequences`.
    """
    means = sequence_means(log_ratios, batch, num_sequences).detach()
    return means + log_ratios - log_ratios.detach()


RATIOS: Mapping[RatioLevel, Callable[[Tensor, MicroBatch, int], Tensor]] = {
    "token": of_tokens,
    "sequence": of_sequences,
    "sequence-token": of_sequences_by_token,
}


def sequence_means(values: Tensor, batch: MicroBatch, num_sequences: int) -> Tensor:
    """Return the mean over the trained tokens of each token's own sequence.  [N] -> [N]

    Sequences are told apart by `sequence_index`, from 0 to `num_sequences` - 1, in whatever row
    they are. The sums are over all shards of a sequence, if ranks share its positions.
    """
    index = batch.sequence_index[batch.loss_mask]  # [N]
    ones = torch.ones_like(values)
    mine = values.new_zeros(2, num_sequences).index_add(1, index, torch.stack([values, ones]))
    whole = add_over_shards(mine, batch)[:, index]
    return whole[0] / whole[1]


# ---- surrogates ----------------------------------------------------------------------------------


def cispo(ratio: Tensor, clipped: Tensor, advantages: Tensor, logprobs: Tensor) -> Tensor:
    """Return the gain of CISPO (arXiv:2506.13585, Eq. 4): log-probabilities that weigh as much as
    the clipped ratio, which has no gradient; so no token loses its own."""
    return clipped.detach() * advantages * logprobs


def reinforce(ratio: Tensor, clipped: Tensor, advantages: Tensor, logprobs: Tensor) -> Tensor:
    """Return the gain of REINFORCE: log-probabilities, with no ratio; right on policy only."""
    return advantages * logprobs


SURROGATES: Mapping[SurrogateName, Surrogate] = {
    "clip": clip,
    "cispo": cispo,
    "none": reinforce,
}
