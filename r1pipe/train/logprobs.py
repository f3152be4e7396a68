"""Log-probabilities of completion tokens under a model, at the sampling temperature.

# B rows, T tokens, V vocabulary, N trained tokens of a micro-batch
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from r1pipe.train.batching import MicroBatch

MAX_LOGITS = 1 << 26
"""Most logits that stand in memory at once: 256 MiB in float32, and as much for their gradient."""


def token_logprobs(model: Any, batch: MicroBatch, temperature: float = 1.0) -> Tensor:
    """Return the log-probability of every trained token, in row order.  -> [N]

    The head runs only where a trained token is predicted, so no logits of prompts or padding stand
    in memory; where those of the trained tokens would be more than MAX_LOGITS numbers, it runs over
    a part of the tokens after another, and again in the backward pass. Logits are divided by
    `temperature`, as the sampler's were; without that the ratio compares two different
    distributions.
    """
    hidden = model.model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
    ).last_hidden_state  # [B, T, H]
    predicts = batch.loss_mask[:, 1:]  # position t predicts token t + 1
    states = hidden[:, :-1][predicts]  # [N, H]
    targets = batch.input_ids[:, 1:][predicts]  # [N]

    def score(states: Tensor, targets: Tensor) -> Tensor:
        logits = model.lm_head(states).float()
        return gather_logprobs(logits if temperature == 1.0 else logits / temperature, targets)

    rows = max(1, MAX_LOGITS // model.lm_head.out_features)
    if len(targets) <= rows:
        return score(states, targets)
    parts = zip(torch.split(states, rows), torch.split(targets, rows), strict=True)
    return torch.cat([checkpoint(score, *part, use_reentrant=False) for part in parts])


def gather_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """Return log softmax(logits)[target] for each row.  [N, V], [N] -> [N]"""
    return -torch.nn.functional.cross_entropy(logits, targets, reduction="none")
