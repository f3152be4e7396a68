"""The supervised loop behind pretraining, both SFT stages and distillation.

DeepSeekMath's table of methods (arXiv:2402.03300, section 5.2.1): the gradient coefficient of SFT
is 1 for every token of the data.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from r1pipe.errors import StageError
from r1pipe.models.policy import save_model
from r1pipe.models.prompts import encode_completion, encode_prompt
from r1pipe.rows import read_rows
from r1pipe.settings import TrainRun
from r1pipe.stage import Context
from r1pipe.train.backends import make_engine
from r1pipe.train.batching import (
    Batching,
    MicroBatch,
    TokenSequence,
    batching_of,
    count_loss_tokens,
    micro_batches,
)
from r1pipe.train.engine import Engine, Loss
from r1pipe.train.logprobs import token_logprobs
from r1pipe.train.schedule import Schedule, learning_rate


@dataclass(frozen=True)
class SupervisedPlan:
    """What decides a supervised run, besides the data and the initial weights."""

    num_epochs: int
    batch_size: int
    peak_lr: float
    schedule: Schedule
    warmup_steps: int
    final_lr_frac: float
    seed: int


def plan_of(params: Any) -> SupervisedPlan:
    """Return the plan of a stage with `num_epochs`, `batch_size`, `seed` and an `optimizer`."""
    optimizer = params.optimizer
    return SupervisedPlan(
        num_epochs=params.num_epochs,
        batch_size=params.batch_size,
        peak_lr=optimizer.lr,
        schedule=optimizer.schedule,
        warmup_steps=optimizer.warmup_steps,
        final_lr_frac=optimizer.final_lr_frac,
        seed=params.seed,
    )


def fit(
    context: Context,
    model: Any,
    tokenizer: Any,
    rows: Path,
    params: Any,
    run: TrainRun,
    *,
    max_tokens: int,
    max_rows: int | None = None,
) -> None:
    """Train `model` on the rows of a data set and write it as the stage's output."""
    sequences, too_long = sequences_of(tokenizer, rows, max_tokens, max_rows)
    context.note(
        num_parameters=sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters()),
        num_rows=len(sequences),
        too_long=too_long,
        trained_tokens=params.num_epochs * sum(map(len, sequences)),
    )
    engine = make_engine(model, params.optimizer, run, context.ranks, params.precision)
    batching = batching_of(run, tokenizer.pad_token_id)
    train_supervised(context, engine, sequences, plan_of(params), batching)
    finish(context, engine, tokenizer)


def finish(context: Context, engine: Engine, tokenizer: Any) -> None:
    """Write the trained model as the stage's output and close its engine."""
    weights = engine.consolidated()
    if weights is not None:
        save_model(engine.model, tokenizer, context.output("model"), weights)
    engine.close()


def sequences_of(
    tokenizer: Any, folder: Path, max_tokens: int, max_rows: int | None = None
) -> tuple[list[TokenSequence], int]:
    """Return the first rows of a data set as sequences, and how many were over `max_tokens`.

    Raises StageError when nothing is left to train on.
    """
    sequences, too_long = [], 0
    columns = ["prompt", "format", "completion"]
    for row in islice(read_rows(folder, columns=columns), max_rows):
        sequence = TokenSequence(
            encode_prompt(tokenizer, row["prompt"], row["format"]),
            encode_completion(tokenizer, row["completion"]),
        )
        if len(sequence) <= max_tokens:
            sequences.append(sequence)
        else:
            too_long += 1
    if not sequences:
        raise StageError(f"{folder}: no row to train on ({too_long} are over {max_tokens} tokens)")
    return sequences, too_long


def batches_of(num_rows: int, plan: SupervisedPlan) -> Iterator[list[int]]:
    """Yield row numbers of each step: every epoch a new seeded order, no row twice in an epoch.

    The last batch of an epoch may be smaller; it counts its own tokens.
    """
    for epoch in range(plan.num_epochs):
        order = list(range(num_rows))
        random.Random(f"{plan.seed}:{epoch}").shuffle(order)
        for start in range(0, num_rows, plan.batch_size):
            yield order[start : start + plan.batch_size]


def train_supervised(
    context: Context,
    engine: Engine,
    sequences: Sequence[TokenSequence],
    plan: SupervisedPlan,
    batching: Batching,
) -> None:
    """Minimise the mean negative log-likelihood of completion tokens; resumes by itself.

    The data position is the step number: the order is a function of the seed and the epoch.
    """
    steps = list(batches_of(len(sequences), plan))
    done = resume(context, engine)
    for step, rows in enumerate(steps[done:], start=done):
        started = time.perf_counter()
        batch = [sequences[row] for row in rows]
        num_loss_tokens = count_loss_tokens(batch)

        def loss(model: Any, micro: MicroBatch, total: int = num_loss_tokens) -> Loss:
            return Loss(-token_logprobs(model, micro).sum() / total)

        measures = engine.accumulate(micro_batches(batch, batching), loss)
        rate = learning_rate(
            step, len(steps), plan.peak_lr, plan.schedule, plan.warmup_steps, plan.final_lr_frac
        )
        norm = engine.step(rate)
        speed = sum(map(len, batch)) / (time.perf_counter() - started)
        context.log(step + 1, len(steps), **measures, lr=rate, grad_norm=norm, tokens_per_s=speed)
        checkpoint(context, engine, step + 1)


def resume(context: Context, engine: Engine) -> int:
    """Load the newest checkpoint of the attempt, if any; return the steps that are done."""
    found = context.checkpoints.latest()
    if found is None:
        return 0
    engine.load(found[1])
    return found[0]


def checkpoint(context: Context, engine: Engine, step: int) -> None:
    """Save when it is due, then stop if that was asked for."""
    if context.checkpoint_due():
        with context.checkpoints.saving(step) as folder:
            engine.save(folder)
    context.stop_if_asked()
