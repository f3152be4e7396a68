"""One policy update from one minibatch of rollouts.

# S sequences of the minibatch, C longest completion, N trained tokens of a micro-batch
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from r1pipe.records import FinishReason, Rollout
from r1pipe.rl.objective import Aggregation, grpo_token_loss, token_weights
from r1pipe.train.batching import Layout, MicroBatch, TokenSequence, micro_batches
from r1pipe.train.engine import Engine
from r1pipe.train.logprobs import token_logprobs

Truncated = Literal["score", "mask"]


@dataclass(frozen=True)
class Objective:
    """What decides the loss of an update."""

    temperature: float
    clip_low: float
    clip_high: float
    kl_coef: float
    aggregation: Aggregation
    constant_tokens: int


@dataclass(frozen=True)
class Batching:
    """How an update is computed; it does not decide the result."""

    micro_batch_tokens: int
    layout: Layout
    pad_id: int


def trained_rollouts(rollouts: Sequence[Rollout], truncated: Truncated) -> list[Rollout]:
    """Return the rollouts that enter the loss, numerator and denominator alike.

    `score` keeps truncated completions with the reward they got; `mask` leaves them out of both.
    """
    if truncated == "score":
        return list(rollouts)
    return [r for r in rollouts if r.completion.finish_reason is not FinishReason.LENGTH]


def minibatches(rollouts: Sequence[Rollout], count: int, seed: str) -> list[list[Rollout]]:
    """Split the rollouts at random into `count` minibatches of sizes that differ by one at most."""
    order = list(rollouts)
    random.Random(seed).shuffle(order)
    return [order[i::count] for i in range(count)]


def token_sequences(rollouts: Sequence[Rollout]) -> list[TokenSequence]:
    """Return the rollouts as sequences, numbered by their place."""
    return [TokenSequence(r.prompt_ids, r.completion.token_ids, i) for i, r in enumerate(rollouts)]


def per_token_table(rows: Sequence[Sequence[float]]) -> Tensor:
    """Return rows of unequal length as one table.  -> [S, C]"""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0.0] * (width - len(row))] for row in rows])


def at_trained(table: Tensor, batch: MicroBatch) -> Tensor:
    """Look a [S, C] table up at the trained tokens of a micro-batch, in its order.  -> [N]"""
    mask = batch.loss_mask
    return table.to(mask.device)[batch.sequence_index[mask], batch.completion_offset[mask]]


@torch.no_grad()
def frozen_logprobs(
    model: Any, sequences: Sequence[TokenSequence], temperature: float, batching: Batching
) -> list[list[float]]:
    """Return each sequence's completion log-probabilities under a frozen model."""
    rows: list[list[float]] = [[0.0] * len(s.completion_ids) for s in sequences]
    for batch in micro_batches(
        sequences, batching.micro_batch_tokens, batching.pad_id, batching.layout
    ):
        moved = batch.to(model.device)
        values = token_logprobs(model, moved, temperature).tolist()
        mask = batch.loss_mask
        places = zip(
            batch.sequence_index[mask].tolist(), batch.completion_offset[mask].tolist(), strict=True
        )
        for (sequence, offset), value in zip(places, values, strict=True):
            rows[sequence][offset] = value
    return rows


def update_policy(
    engine: Engine,
    rollouts: Sequence[Rollout],
    reference_rows: Sequence[Sequence[float]] | None,
    objective: Objective,
    batching: Batching,
    learning_rate: float,
) -> dict[str, float]:
    """Do one optimizer step on a minibatch; return its metrics (empty minibatch: no step)."""
    if not rollouts:
        return {}
    sequences = token_sequences(rollouts)
    sampler = per_token_table([r.completion.sampler_logprobs for r in rollouts])
    reference = None if reference_rows is None else per_token_table(reference_rows)
    advantages = torch.tensor([r.advantage for r in rollouts], dtype=torch.float32)
    lengths = torch.tensor([len(s.completion_ids) for s in sequences], dtype=torch.float32)
    num_tokens = int(lengths.sum())
    sums = {"kl": 0.0, "clip_frac": 0.0, "ratio_mean": 0.0}
    peak = {"ratio_max": 0.0}

    def loss(model: Any, batch: MicroBatch) -> Tensor:
        index = batch.sequence_index[batch.loss_mask]
        token = grpo_token_loss(
            token_logprobs(model, batch, objective.temperature),
            at_trained(sampler, batch),
            None if reference is None else at_trained(reference, batch),
            advantages.to(index.device)[index],
            clip_low=objective.clip_low,
            clip_high=objective.clip_high,
            kl_coef=objective.kl_coef,
        )
        weights = token_weights(
            lengths.to(index.device)[index],
            objective.aggregation,
            num_sequences=len(rollouts),
            num_tokens=num_tokens,
            constant=objective.constant_tokens,
        )
        sums["kl"] += float(token.kl.sum()) / num_tokens
        sums["clip_frac"] += float(token.is_clipped.sum()) / num_tokens
        sums["ratio_mean"] += float(token.ratio.sum()) / num_tokens
        peak["ratio_max"] = max(peak["ratio_max"], float(token.ratio.max()))
        return (token.loss * weights).sum()

    batches = micro_batches(
        sequences, batching.micro_batch_tokens, batching.pad_id, batching.layout
    )
    value = engine.accumulate(batches, loss)
    norm = engine.step(learning_rate)
    return {"loss": value, "grad_norm": norm, **sums, **peak}
