"""Log-probabilities of completion tokens under a model, at the sampling temperature.

# B rows, T tokens, V vocabulary, N trained tokens of a micro-batch
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from r1pipe.train.batching import MicroBatch


def token_logprobs(model: Any, batch: MicroBatch, temperature: float = 1.0) -> Tensor:
    """Return the log-probability of every trained token, in row order.  -> [N]

    The head runs only where a trained token is predicted, so no logits of prompts or padding stand
    in memory. Logits are divided by `temperature`, as the sampler's were; without that the ratio
    compares two different distributions.
    """
    hidden = model.model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
    ).last_hidden_state  # [B, T, H]
    predicts = batch.loss_mask[:, 1:]  # position t predicts token t + 1
    logits = model.lm_head(hidden[:, :-1][predicts]).float()  # [N, V]
    targets = batch.input_ids[:, 1:][predicts]  # [N]
    return gather_logprobs(logits if temperature == 1.0 else logits / temperature, targets)


def gather_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """Return log softmax(logits)[target] for each row.  [N, V], [N] -> [N]"""
    return -torch.nn.functional.cross_entropy(logits, targets, reduction="none")
