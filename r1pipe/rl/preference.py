"""Losses and the loop of reward models.

# B rows of a micro-batch
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from r1pipe.rl.reward_model import scores
from r1pipe.stage import Context
from r1pipe.train.batching import MicroBatch, TokenSequence, one_batch
from r1pipe.train.engine import Engine, Loss
from r1pipe.train.schedule import learning_rate
from r1pipe.train.supervised import SupervisedPlan, batches_of, checkpoint, resume

Objective = Literal["pairwise", "pointwise"]


def pairwise_loss(values: Tensor) -> Tensor:
    """Return the summed Bradley-Terry loss of rows chosen, rejected, chosen, ...  [B] -> []

    -log sigmoid(score of chosen - score of rejected), for each pair.
    """
    return -logsigmoid(values[0::2] - values[1::2]).sum()


def pointwise_loss(values: Tensor, labels: Tensor) -> Tensor:
    """Return the summed binary cross-entropy of scores against safe = 1.  [B], [B] -> []"""
    return binary_cross_entropy_with_logits(values, labels, reduction="sum")


def train_reward_model(
    context: Context,
    engine: Engine,
    examples: Sequence[tuple[TokenSequence, ...]],
    labels: Sequence[float],
    plan: SupervisedPlan,
    *,
    objective: Objective,
    pad_id: int,
    examples_per_micro_batch: int,
) -> None:
    """Train on examples: (chosen, rejected) pairs, or single texts with a label each."""
    passes = plan.num_epochs
    context.note(trained_tokens=passes * sum(len(text) for texts in examples for text in texts))
    steps = list(batches_of(len(examples), plan))
    done = resume(context, engine)
    for step, rows in enumerate(steps[done:], start=done):
        started = time.perf_counter()

        batches = _batches(examples, rows, examples_per_micro_batch, pad_id)
        measures = engine.accumulate(batches, partial(_loss, objective, labels, len(rows)))
        rate = learning_rate(
            step, len(steps), plan.peak_lr, plan.schedule, plan.warmup_steps, plan.final_lr_frac
        )
        norm = engine.step(rate)
        tokens = sum(len(s) for row in rows for s in examples[row])
        context.log(
            step + 1,
            len(steps),
            **measures,
            grad_norm=norm,
            lr=rate,
            tokens_per_s=tokens / (time.perf_counter() - started),
        )
        checkpoint(context, engine, step + 1)


def _loss(
    objective: Objective, labels: Sequence[float], total: int, model: Any, batch: MicroBatch
) -> Loss:
    """Return what a micro-batch adds to the loss of a step of `total` examples."""
    values = scores(model, batch)
    if objective == "pairwise":
        is_right = values[0::2] > values[1::2]
        value = pairwise_loss(values)
    else:
        wanted = torch.tensor([labels[i] for i in batch.sequence_index[:, 0].tolist()])
        wanted = wanted.to(values.device)
        is_right = (values > 0) == (wanted > 0.5)
        value = pointwise_loss(values, wanted)
    share = batch.is_first_part / total  # all ranks that share the rows know all scores
    return Loss(value * share, sums={"accuracy": float(is_right.sum()) * share})


def _batches(
    examples: Sequence[tuple[TokenSequence, ...]], rows: Sequence[int], size: int, pad_id: int
) -> Iterator[MicroBatch]:
    """Yield micro-batches that keep the texts of an example side by side."""
    for start in range(0, len(rows), size):
        chosen = rows[start : start + size]
        yield one_batch(
            [
                TokenSequence(text.prompt_ids, text.completion_ids, row)
                for row in chosen
                for text in examples[row]
            ],
            pad_id,
        )
