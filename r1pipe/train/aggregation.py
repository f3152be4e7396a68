"""How the losses of tokens are summed: the weight of each, by the length of its completion.

# N completions of an update
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from r1pipe.records import TokenSequence
from r1pipe.settings import Aggregation


def assign_weights(
    rollouts: Sequence[TokenSequence], aggregation: Aggregation, constant: int
) -> None:
    """Give every token of a minibatch its weight in the loss."""
    if not rollouts:
        return
    lengths = [rollout.num_trained for rollout in rollouts]
    weights = token_weights(
        torch.tensor(lengths, dtype=torch.float32),
        aggregation,
        num_sequences=len(lengths),
        num_tokens=sum(lengths),
        constant=constant,
    )
    for rollout, weight in zip(rollouts, weights.tolist(), strict=True):
        rollout.streams["weight"] = [weight] * len(rollout.completion_ids)


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
