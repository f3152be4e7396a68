"""Log-probabilities of completion tokens under a model, at the sampling temperature.

# B rows, T tokens, V vocabulary, N trained tokens of a micro-batch
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from r1pipe.models.interfaces import LanguageModel
from r1pipe.records import TokenSequence
from r1pipe.train.batching import Batching, MicroBatch, micro_batches
from r1pipe.train.engine import Forward
from r1pipe.train.packed import blocks_of, is_attending

MAX_LOGITS = 1 << 26
"""Most logits that are in memory at once: 256 MiB in float32, and as much for their gradient."""
LARGE_LOGITS = 1 << 22
"""Logits from which their memory counts."""
BLOCK = 1 << 18
"""Logits that are gone through at once on a CPU: 1 MiB."""


def token_logprobs(model: LanguageModel, batch: MicroBatch, temperature: float = 1.0) -> Tensor:
    """Return the log-probability of every trained token, in row order.  -> [N]

    The head runs only where a trained token is predicted, so no logits of prompts or padding are
    in memory; if those of the trained tokens would be more than MAX_LOGITS numbers, it runs over
    one slice of the tokens after another, and again in the backward pass: on each rank as often as
    on the others, since ZeRO-3 gathers its weight for every call. Logits are divided by
    `temperature`, as the sampler's were; without that the ratio compares two distributions.
    """
    predicts = batch.loss_mask[:, 1:]  # position t predicts token t + 1
    hidden = hidden_states(model, batch)
    states = hidden[:, : predicts.shape[1]][predicts]  # [N, H]
    targets = batch.input_ids[:, 1:][predicts]  # [N]

    def score(states: Tensor, targets: Tensor) -> Tensor:
        logits = model.lm_head(states).float()
        return gather_logprobs(logits, targets, temperature)

    rows = max(1, MAX_LOGITS // model.lm_head.out_features)
    count = max(len(targets), batch.most_targets)
    if count <= rows:
        return score(states, targets)
    slices = [slice(start, start + rows) for start in range(0, count, rows)]
    return torch.cat(
        [checkpoint(score, states[piece], targets[piece], use_reentrant=False) for piece in slices]
    )


def completion_logprobs(
    forward: Forward, sequences: Sequence[TokenSequence], temperature: float, batching: Batching
) -> list[list[float]]:
    """Return each sequence's completion log-probabilities under a model as it is now."""
    numbered = [TokenSequence(s.prompt_ids, s.completion_ids, i) for i, s in enumerate(sequences)]
    batches = list(micro_batches(numbered, batching))
    values = forward.per_token(batches, partial(token_logprobs, temperature=temperature))
    rows: list[list[float]] = [[] for _ in sequences]
    for batch, of_batch in zip(batches, values, strict=True):
        indices = batch.sequence_index[batch.loss_mask].tolist()
        for index, value in zip(indices, of_batch, strict=True):
            rows[index].append(value)
    return rows


def hidden_states(model: LanguageModel, batch: MicroBatch) -> Tensor:
    """Return the last hidden state of every position.  -> [B, T, H]

    If ranks share the rows, only of this rank's positions.
    """
    inputs: dict[str, object] = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "position_ids": batch.position_ids,
    }
    if (shard := batch.shard) is not None:
        inputs = {
            "input_ids": batch.input_ids[:, :-1],
            "attention_mask": shard.mask,
            "position_ids": batch.position_ids[:, :-1],
            "sequence_shard": shard,
        }
    elif batch.attention_mask is None and is_attending(model):
        inputs["blocks"] = blocks_of(batch.position_ids)
    hidden: Tensor = model.model(**inputs, use_cache=False).last_hidden_state
    return hidden


def gather_logprobs(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """Return log softmax(logits / temperature)[target] for each row.  [N, V], [N] -> [N]

    Large logits are gone through by blocks of rows, with the same result to the last bit, and their
    memory becomes that of their gradient: the usual way takes three times as much.
    """
    if logits.numel() < LARGE_LOGITS:
        return _gathered(logits, targets, temperature)
    apply: Callable[..., Tensor] = _LargeLogprobs.apply
    return apply(logits, targets, temperature)


def _gathered(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    scaled = logits if temperature == 1.0 else logits / temperature
    return -torch.nn.functional.cross_entropy(scaled, targets, reduction="none")


class _LargeLogprobs(torch.autograd.Function):
    """`_gathered` and its gradient, block by block."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
        ctx.save_for_backward(logits, targets)
        ctx.temperature = temperature
        blocks = [_gathered(logits[r], targets[r], temperature) for r in _blocks(logits)]
        return torch.cat(blocks)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        logits, targets = ctx.saved_tensors
        for rows in _blocks(logits):
            block = logits[rows].detach().requires_grad_()
            with torch.enable_grad():
                value = _gathered(block, targets[rows], ctx.temperature)
            (found,) = torch.autograd.grad(value, block, gradients[0][rows])
            logits[rows] = found
        return logits, None, None


def _blocks(logits: Tensor) -> Iterator[slice]:
    """Yield slices of rows that a cache holds, or that are worth a kernel."""
    size = max(1, (BLOCK if logits.device.type == "cpu" else MAX_LOGITS) // logits.shape[1])
    return (slice(start, start + size) for start in range(0, len(logits), size))
