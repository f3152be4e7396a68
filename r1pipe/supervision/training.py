"""Losses and updates of reward models.

# B rows of a micro-batch, K steps that end in them
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from r1pipe.method_params.preferences import PreferenceObjective, RewardModelParams, RewardModelRun
from r1pipe.models.interfaces import LanguageModel
from r1pipe.records import TokenSequence
from r1pipe.stage import Context
from r1pipe.supervision.reward_model import scores
from r1pipe.supervision.steps import step_scores
from r1pipe.train.batching import MicroBatch, one_batch
from r1pipe.train.engine import Engine, Loss
from r1pipe.train.loop import Trainer, Update
from r1pipe.train.supervised import batches_of


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
    params: RewardModelParams,
    run: RewardModelRun,
    pad_id: int,
) -> None:
    """Train on examples: (chosen, rejected) pairs, single texts with a label each, or single texts
    whose trained tokens are the ends of steps, with the stream `label` there."""
    passes = params.num_epochs
    context.note(trained_tokens=passes * sum(len(text) for texts in examples for text in texts))
    steps = list(batches_of(len(examples), params))
    trainer = Trainer(context, engine, params.optimizer, len(steps))

    def update(rows: Sequence[int]) -> Update:
        limits = run.examples_per_micro_batch, run.micro_batch_tokens
        batches = adjacent(examples, rows, *limits, pad_id)
        tokens = sum(len(text) for row in rows for text in examples[row])
        if params.objective == "process":
            num_steps = sum(examples[row][0].num_trained for row in rows)
            return Update(batches, partial(process_loss, num_steps=num_steps), tokens, tokens)
        loss = partial(preference_loss, params.objective, labels, len(rows))
        return Update(batches, loss, tokens, tokens)

    trainer.run(map(update, steps[trainer.step :]))


def preference_loss(
    objective: PreferenceObjective,
    labels: Sequence[float],
    total: int,
    model: LanguageModel,
    batch: MicroBatch,
) -> Loss:
    """Return what a micro-batch adds to the loss of a step of `total` examples."""
    values = scores(model, batch)
    if objective == "pairwise":
        is_right = values[0::2] > values[1::2]
        value = pairwise_loss(values)
    else:
        targets = torch.tensor([labels[i] for i in batch.sequence_index[:, 0].tolist()])
        targets = targets.to(values.device)
        is_right = (values > 0) == (targets > 0.5)
        value = pointwise_loss(values, targets)
    share = batch.is_first_shard / total  # all ranks that share the rows know all scores
    return Loss(value * share, sums={"accuracy": float(is_right.sum()) * share})


def process_loss(model: LanguageModel, batch: MicroBatch, *, num_steps: int) -> Loss:
    """Return what a micro-batch adds to the loss of an update with so many steps.

    The binary cross-entropy of every step's score against its label (Math-Shepherd,
    arXiv:2312.08935, section 3), a share if the labels are soft; the mean over all steps.
    """
    values, labels = step_scores(model, batch), batch.at_trained("label")  # [K] each
    is_right = (values > 0) == (labels > 0.5)
    accuracy = float(is_right.sum()) / num_steps
    return Loss(pointwise_loss(values, labels) / num_steps, sums={"accuracy": accuracy})


def adjacent(
    examples: Sequence[tuple[TokenSequence, ...]],
    rows: Sequence[int],
    max_examples: int,
    max_tokens: int,
    pad_id: int,
) -> Iterator[MicroBatch]:
    """Yield padded micro-batches that keep the texts of an example side by side; its row is their
    `sequence_index`.

    They hold at most so many examples and so many positions; one example may exceed the latter.
    """
    chosen: list[TokenSequence] = []
    count = longest = 0
    for row in rows:
        texts = [replace(text, index=row) for text in examples[row]]
        width = max(longest, *map(len, texts))
        is_full = (len(chosen) + len(texts)) * width > max_tokens
        if chosen and (count == max_examples or is_full):
            yield one_batch(chosen, pad_id)
            chosen, count, width = [], 0, max(map(len, texts))
        chosen += texts
        count, longest = count + 1, width
    if chosen:
        yield one_batch(chosen, pad_id)
