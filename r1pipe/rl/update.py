"""One policy update from one minibatch of rollouts.

# S sequences of the minibatch, C longest completion, N trained tokens of a micro-batch
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from r1pipe.models.precision import computing
from r1pipe.records import FinishReason, Rollout
from r1pipe.rl.objective import (
    Aggregation,
    TokenLoss,
    grpo_token_loss,
    token_weights,
    truncated_weights,
)
from r1pipe.settings import Precision
from r1pipe.train.batching import (
    Batching,
    MicroBatch,
    TokenSequence,
    count_loss_tokens,
    micro_batches,
)
from r1pipe.train.engine import Engine, Loss, Scorer
from r1pipe.train.logprobs import token_logprobs
from r1pipe.train.packed import attending
from r1pipe.workers import in_order

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
    truncation: float | None = None
    """Bound of the weights that correct for the sampler's arithmetic; None corrects nothing."""


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


def frozen_logprobs(
    model: Any,
    sequences: Sequence[TokenSequence],
    temperature: float,
    batching: Batching,
    precision: Precision = "float32",
) -> list[list[float]]:
    """Return each sequence's completion log-probabilities under a frozen model."""

    @torch.no_grad()
    def compute(batch: MicroBatch) -> tuple[MicroBatch, list[float]]:
        with computing(model, precision):
            return batch, token_logprobs(model, batch.to(model.device), temperature).tolist()

    batches = list(micro_batches(sequences, batching))
    with attending(model, batches):
        return by_sequence(sequences, in_order(compute, batches, batching.workers))


def policy_logprobs(
    engine: Scorer, sequences: Sequence[TokenSequence], temperature: float, batching: Batching
) -> list[list[float]]:
    """Return each sequence's completion log-probabilities under the model as the engine has it."""
    batches = list(micro_batches(sequences, batching))

    def compute(model: Any, batch: MicroBatch) -> Tensor:
        return token_logprobs(model, batch, temperature)

    return by_sequence(sequences, zip(batches, engine.per_token(batches, compute), strict=True))


def by_sequence(
    sequences: Sequence[TokenSequence], found: Iterable[tuple[MicroBatch, list[float]]]
) -> list[list[float]]:
    """Put the numbers of all trained tokens back to the sequences they belong to."""
    rows: list[list[float]] = [[0.0] * len(s.completion_ids) for s in sequences]
    for batch, values in found:
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
    old_rows: Sequence[Sequence[float]] | None = None,
) -> dict[str, float]:
    """Do one optimizer step on a minibatch; return its metrics (empty minibatch: no step).

    `old_rows` are the trainer's own log-probabilities of the weights that sampled, which
    `objective.truncation` needs; without them the weights are still those. Means are over the
    tokens that are differentiated, denominators of the loss over all.
    """
    if not rollouts:
        return {}
    sequences = token_sequences(rollouts)
    moving = differentiated(rollouts, sequences, objective.kl_coef)
    lengths = torch.tensor([len(s.completion_ids) for s in sequences], dtype=torch.float32)
    loss = _MinibatchLoss(
        objective,
        sampler=per_token_table([r.completion.sampler_logprobs for r in rollouts]),
        reference=None if reference_rows is None else per_token_table(reference_rows),
        old=None if old_rows is None else per_token_table(old_rows),
        advantages=torch.tensor([r.advantage for r in rollouts], dtype=torch.float32),
        lengths=lengths,
        num_tokens=int(lengths.sum()),
        num_moving=count_loss_tokens(moving),
    )
    measures = engine.accumulate(micro_batches(moving, batching), loss)
    return {**measures, "grad_norm": engine.step(learning_rate)}


@dataclass(frozen=True)
class _MinibatchLoss:
    """What a micro-batch adds to the loss of its minibatch, and what is logged of it."""

    objective: Objective
    sampler: Tensor  # [S, C] log-probabilities, as reference and old
    reference: Tensor | None
    old: Tensor | None
    advantages: Tensor  # [S]
    lengths: Tensor  # [S] tokens of each completion
    num_tokens: int
    """Of all completions: the denominator of the loss."""
    num_moving: int
    """Of those that are differentiated: the denominator of the means."""

    def __call__(self, model: Any, batch: MicroBatch) -> Loss:
        objective, index = self.objective, batch.sequence_index[batch.loss_mask]
        logprobs = token_logprobs(model, batch, objective.temperature)
        sampled = at_trained(self.sampler, batch)
        begun, correction = corrected(logprobs, sampled, self.old, batch, objective.truncation)
        token = grpo_token_loss(
            logprobs,
            begun,
            None if self.reference is None else at_trained(self.reference, batch),
            self.advantages.to(index.device)[index],
            clip_low=objective.clip_low,
            clip_high=objective.clip_high,
            kl_coef=objective.kl_coef,
            weights=correction,
        )
        weights = token_weights(
            self.lengths.to(index.device)[index],
            objective.aggregation,
            num_sequences=len(self.lengths),
            num_tokens=self.num_tokens,
            constant=objective.constant_tokens,
        )
        difference = (logprobs.detach() if self.old is None else begun) - sampled
        return self.measured((token.loss * weights).sum(), token, difference)

    def measured(self, value: Tensor, token: TokenLoss, difference: Tensor) -> Loss:
        """Return the loss with its measures; `difference` is trainer minus sampler.  [N]"""
        means = {
            "kl": token.kl,
            "clip_frac": token.is_clipped,
            "ratio_mean": token.ratio,
            "mismatch_kl": torch.expm1(difference) - difference,
        }
        peaks = {"ratio_max": token.ratio, "mismatch_ratio_max": difference.abs().exp()}
        return Loss(
            value,
            sums={name: float(values.sum()) / self.num_moving for name, values in means.items()},
            peaks={name: float(v.max()) for name, v in peaks.items() if len(v)},  # of parts: none
        )


def differentiated(
    rollouts: Sequence[Rollout], sequences: Sequence[TokenSequence], kl_coef: float
) -> Sequence[TokenSequence]:
    """Return the sequences that have a gradient: without a KL term those with an advantage.

    Where none has, one stays: the step is that of a gradient of zeros, whose momentum goes on.
    """
    if kl_coef:
        return sequences
    moving = [s for s, made in zip(sequences, rollouts, strict=True) if made.advantage != 0]
    return moving or sequences[:1]


def differentiated_tokens(rollouts: Sequence[Rollout], kl_coef: float) -> int:
    """Return how many tokens, prompts included, one update on these rollouts trains on."""
    sequences = token_sequences(rollouts)
    return sum(map(len, differentiated(rollouts, sequences, kl_coef)))


def corrected(
    logprobs: Tensor, sampled: Tensor, old: Tensor | None, batch: MicroBatch, limit: float | None
) -> tuple[Tensor, Tensor | float]:
    """Return what the ratio is taken against, and the weights of the tokens.  [N] each"""
    if limit is None:
        return sampled, 1.0
    begun = logprobs.detach() if old is None else at_trained(old, batch)
    return begun, truncated_weights(begun, sampled, limit)
