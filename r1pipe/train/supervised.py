"""The supervised loop of pretraining, both SFT stages and distillation.

DeepSeekMath's table of methods (arXiv:2402.03300, section 5.2.1): the gradient coefficient of SFT
is 1 for every token of the data.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from r1pipe.engine_settings import TrainRun
from r1pipe.errors import StageError
from r1pipe.models.interfaces import LanguageModel, Tokenizer
from r1pipe.models.policy import save_model
from r1pipe.models.precision import dtype_of
from r1pipe.models.prompts import after_opened, encode_completion, encode_prompt, opened_thought
from r1pipe.records import TokenSequence
from r1pipe.rows import read_rows
from r1pipe.settings import EpochParams, Precision
from r1pipe.stage import Context
from r1pipe.train.backends import make_engine
from r1pipe.train.batching import (
    Batching,
    MicroBatch,
    batching_of,
    count_loss_tokens,
    micro_batches,
)
from r1pipe.train.engine import Engine, Loss
from r1pipe.train.logprobs import token_logprobs
from r1pipe.train.loop import Trainer, Update
from r1pipe.train.own_forward import check_forward


def fit(
    context: Context,
    model: LanguageModel,
    tokenizer: Tokenizer,
    sequences: Sequence[TokenSequence],
    params: EpochParams,
    run: TrainRun,
) -> None:
    """Train `model` on sequences and write it as the stage's output."""
    context.note(
        num_parameters=sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters()),
        num_rows=len(sequences),
        trained_tokens=params.num_epochs * sum(map(len, sequences)),
    )
    engine = make_engine(model, params.optimizer, run, context.ranks, params.precision)
    batching = batching_of(run, tokenizer.pad_token_id)
    check_forward(engine, model, batching, params.precision)
    train_supervised(context, engine, sequences, params, batching)
    finish(context, engine, tokenizer, params.precision)


def finish(context: Context, engine: Engine, tokenizer: Tokenizer, precision: Precision) -> None:
    """Write the trained model in the precision's dtype, as the stage's output; close its engine."""
    weights = engine.consolidated()
    if weights is not None:
        folder = context.output("model")
        save_model(engine.model, tokenizer, folder, weights, dtype_of(precision))
    engine.close()


def sequences_of(
    tokenizer: Tokenizer, folder: Path, max_tokens: int, max_rows: int | None = None
) -> tuple[list[TokenSequence], int]:
    """Return the first rows of a data set as sequences, and how many were over `max_tokens`.

    Raises StageError when nothing is left to train on.
    """
    sequences, too_long = [], 0
    opened: dict[str, str] = {}  # by format: what the prompt holds of the completion
    columns = ["prompt", "format", "completion"]
    for row in islice(read_rows(folder, columns=columns), max_rows):
        fmt = row["format"]
        if fmt not in opened:
            opened[fmt] = opened_thought(tokenizer, fmt)
        sequence = TokenSequence(
            encode_prompt(tokenizer, row["prompt"], fmt),
            encode_completion(tokenizer, after_opened(row["completion"], opened[fmt], fmt)),
        )
        if len(sequence) <= max_tokens:
            sequences.append(sequence)
        else:
            too_long += 1
    if not sequences:
        raise StageError(f"{folder}: no row to train on ({too_long} are over {max_tokens} tokens)")
    return sequences, too_long


def batches_of(num_rows: int, params: EpochParams) -> Iterator[list[int]]:
    """Yield row numbers of each step: every epoch a new seeded order, no row twice in an epoch.

    The last batch of an epoch may be smaller; it counts its own tokens.
    """
    for epoch in range(params.num_epochs):
        order = list(range(num_rows))
        random.Random(f"{params.seed}:{epoch}").shuffle(order)
        for start in range(0, num_rows, params.batch_size):
            yield order[start : start + params.batch_size]


def train_supervised(
    context: Context,
    engine: Engine,
    sequences: Sequence[TokenSequence],
    params: EpochParams,
    batching: Batching,
) -> None:
    """Minimise the mean negative log-likelihood of completion tokens; resumes by itself.

    The data position is the step number: the order is a function of the seed and the epoch.
    """
    steps = list(batches_of(len(sequences), params))
    trainer = Trainer(context, engine, params.optimizer, len(steps))
    batches = ([sequences[row] for row in rows] for rows in steps[trainer.step :])
    trainer.run(supervised_update(batch, batching) for batch in batches)


def supervised_update(sequences: Sequence[TokenSequence], batching: Batching) -> Update:
    """Return the update on some sequences."""
    tokens = sum(map(len, sequences))
    loss = partial(negative_log_likelihood, num_tokens=count_loss_tokens(sequences))
    return Update(micro_batches(sequences, batching), loss, tokens, tokens)


def negative_log_likelihood(model: LanguageModel, batch: MicroBatch, num_tokens: int) -> Loss:
    """Return what a micro-batch adds to the loss of an update with so many trained tokens."""
    return Loss(-token_logprobs(model, batch).sum() / num_tokens)
