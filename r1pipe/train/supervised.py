"""The supervised loop of pretraining, both SFT stages and distillation.

DeepSeekMath's table of methods (arXiv:2402.03300, section 5.2.1): the gradient coefficient of SFT
is 1 for every token of the data. Its Eq. 6 and 8 take the mean over a sequence's tokens first
(`sequence-mean`); the usual loss of language models is one mean over all tokens (`token-mean`).
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, TypeAlias

from r1pipe.chat import Format
from r1pipe.engine_settings import TrainRun
from r1pipe.files import Record
from r1pipe.models.interfaces import LanguageModel, Tokenizer
from r1pipe.models.policy import save_model
from r1pipe.models.precision import dtype_of
from r1pipe.models.stored_adapters import save_beside
from r1pipe.records import Message, TokenSequence
from r1pipe.settings import Adapter, EpochParams, Precision
from r1pipe.stage import Context
from r1pipe.train.backends import make_engine
from r1pipe.train.batching import (
    Batching,
    MicroBatch,
    batching_of,
    count_loss_tokens,
    micro_batches,
)
from r1pipe.train.conversations import TrainOn, TurnEncoder, Untrainable
from r1pipe.train.engine import Engine, Loss
from r1pipe.train.logprobs import token_logprobs
from r1pipe.train.loop import Trainer, Update
from r1pipe.train.own_forward import check_forward

TrainingRow: TypeAlias = tuple[Record, Format, Sequence[Message]]
"""A row with its place, its format, and its conversation; the answer comes last."""
Aggregation: TypeAlias = Literal["token-mean", "sequence-mean"]
"""How the losses of tokens are summed."""
ROWS_AT_ONCE = 512
"""Rows that are tokenized together."""


def fit(
    context: Context,
    model: LanguageModel,
    tokenizer: Tokenizer,
    sequences: Sequence[TokenSequence],
    params: EpochParams,
    run: TrainRun,
    aggregation: Aggregation = "token-mean",
) -> None:
    """Train `model` on sequences and write it as the stage's output."""
    context.note(
        num_parameters=sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters()),
        num_rows=len(sequences),
        trained_tokens=params.num_epochs * sum(map(len, sequences)),
    )
    engine = make_engine(
        model, params.optimizer, run, context.ranks, params.precision, context.warn
    )
    batching = batching_of(run, tokenizer.pad_token_id)
    check_forward(engine, model, batching, params.precision)
    train_supervised(context, engine, sequences, params, batching, aggregation)
    finish(context, engine, tokenizer, params.precision, getattr(params, "adapter", None))


def finish(
    context: Context,
    engine: Engine,
    tokenizer: Tokenizer,
    precision: Precision,
    adapter: Adapter | None = None,
) -> None:
    """Write the trained model in the precision's dtype, as the stage's output; close its engine.

    An adapter that is not to be merged is written beside the base that it was trained on.
    """
    if adapter is not None and not adapter.merge:
        if context.ranks.is_main:
            base = Path(engine.model.name_or_path)
            save_beside(engine.model, adapter, base, context.output("model"))
        engine.close()
        return
    weights = engine.consolidated()
    if weights is not None:
        folder = context.output("model")
        save_model(engine.model, tokenizer, folder, weights, dtype_of(precision))
    engine.close()


def sequences_of(
    encoder: TurnEncoder,
    rows: Iterable[TrainingRow],
    max_tokens: int,
    skip: Callable[[Record, str], object],
    train_on: TrainOn = "every-turn",
) -> tuple[list[TokenSequence], int]:
    """Return rows as sequences, and how many sequences were over `max_tokens`.

    A conversation may be several sequences. `skip` is given the rows that cannot be trained, each
    with the reason.
    """
    sequences, too_long = [], 0
    numbered = enumerate(rows)
    while some := list(islice(numbered, ROWS_AT_ONCE)):
        encoder.prepare(((messages, fmt) for _, (_, fmt, messages) in some), train_on)
        for number, (record, fmt, messages) in some:
            try:
                made = _sequences_of_row(encoder, fmt, messages, train_on)
            except Untrainable as reason:
                skip(record, str(reason))
                continue
            fitting = [packed(each, number) for each in made if len(each) <= max_tokens]
            sequences.extend(fitting)
            too_long += len(made) - len(fitting)
    return sequences, too_long


def packed(sequence: TokenSequence, number: int = 0) -> TokenSequence:
    """Return a sequence in four bytes a token, where a list takes eight and its numbers more."""
    ids = sequence.prompt_ids, sequence.completion_ids
    prompt, completion = (array("i", each) for each in ids)
    return replace(sequence, prompt_ids=prompt, completion_ids=completion, index=number)


def _sequences_of_row(
    encoder: TurnEncoder, fmt: Format, messages: Sequence[Message], train_on: TrainOn
) -> list[TokenSequence]:
    if [each.role for each in messages] == ["user", "assistant"] and messages[1].is_trained:
        return [encoder.encode_row(messages[0].content, messages[1].content, fmt)]
    if fmt.template == "r1-zero":
        raise Untrainable("format r1-zero has one prompt and no turns")
    return encoder.encode(messages, train_on, fmt)


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
    aggregation: Aggregation = "token-mean",
) -> None:
    """Minimise the mean negative log-likelihood of completion tokens; resumes by itself.

    The data position is the step number: the order is a function of the seed and the epoch.
    """
    steps = list(batches_of(len(sequences), params))
    trainer = Trainer(context, engine, params.optimizer, len(steps))
    batches = ([sequences[row] for row in rows] for rows in steps[trainer.step :])
    trainer.run(supervised_update(batch, batching, aggregation) for batch in batches)


def supervised_update(
    sequences: Sequence[TokenSequence], batching: Batching, aggregation: Aggregation = "token-mean"
) -> Update:
    """Return the update on some sequences."""
    tokens = sum(map(len, sequences))
    if aggregation == "sequence-mean":
        weighted = [_weighted(each, len(sequences)) for each in sequences]
        return Update(micro_batches(weighted, batching), weighted_loss, tokens, tokens)
    loss = partial(negative_log_likelihood, num_tokens=count_loss_tokens(sequences))
    return Update(micro_batches(sequences, batching), loss, tokens, tokens)


def negative_log_likelihood(model: LanguageModel, batch: MicroBatch, num_tokens: int) -> Loss:
    """Return what a micro-batch adds to the loss of an update with so many trained tokens."""
    return Loss(-token_logprobs(model, batch).sum() / num_tokens)


def weighted_loss(model: LanguageModel, batch: MicroBatch) -> Loss:
    """Return what a micro-batch adds where every token has a weight of its own."""
    return Loss(-(token_logprobs(model, batch) * batch.at_trained("weight")).sum())


def _weighted(sequence: TokenSequence, num_sequences: int) -> TokenSequence:
    """Return a sequence whose trained tokens weigh 1 / |o|, and a part of the mean over all."""
    weight = 1.0 / (sequence.num_trained * num_sequences)
    return replace(sequence, streams={"weight": [weight] * len(sequence.completion_ids)})
