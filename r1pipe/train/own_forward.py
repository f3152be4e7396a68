"""The check that training computes what the model's own family computes, once for each stage.

A family may scale or cap its logits, count positions from another number, or carry a state that
packed rows would mix. Training on other probabilities than the sampler's fails in silence.
"""

from __future__ import annotations

import torch
from torch import Tensor

from r1pipe.errors import StageError
from r1pipe.models.interfaces import LanguageModel
from r1pipe.records import TokenSequence
from r1pipe.settings import Precision
from r1pipe.train.batching import Batching, MicroBatch, one_batch
from r1pipe.train.engine import Forward
from r1pipe.train.logprobs import completion_logprobs, gather_logprobs, token_logprobs, vocabulary

SIZES = ((3, 6), (7, 4))
"""Tokens of prompt and completion of the sequences that are compared."""
TOLERANCES: dict[Precision, float] = {"float32": 1e-3, "bfloat16": 0.05}
"""Largest mean difference in nats. The least that a family's scale has made is 0.28."""


def check_forward(
    forward: Forward, model: LanguageModel, batching: Batching, precision: Precision
) -> float:
    """Compare log-probabilities with those of the family's own forward; return their mean distance.

    All ranks call it together. Raises StageError, with the family's name, on a mismatch.
    """
    sequences = short_sequences(vocabulary(model))
    ours = completion_logprobs(forward, sequences, 1.0, batching)
    alone = [one_batch([sequence], batching.pad_id) for sequence in sequences]
    own = forward.per_token(alone, own_logprobs)
    distances = [
        abs(a - b)
        for mine, theirs in zip(ours, own, strict=True)
        for a, b in zip(mine, theirs, strict=True)
    ]
    mean = sum(distances) / len(distances)
    if not mean <= TOLERANCES[precision]:
        other = "layout: padded" if batching.layout == "packed" else "another model"
        raise StageError(
            f"{model.config.model_type}: training would compute other log-probabilities than"
            f" {type(model).__name__} itself (mean difference {mean:.2g} nats in {precision}); this"
            f" family is not supported as it is; try {other}"
        )
    return mean


def own_logprobs(model: LanguageModel, batch: MicroBatch) -> Tensor:
    """Return the log-probabilities of one sequence by the model's own forward.  -> [N]"""
    if batch.shard is not None:  # no rank has the sequence whole
        return token_logprobs(model, batch)
    targets = batch.input_ids[:, 1:][batch.loss_mask[:, 1:]]
    logits = model(input_ids=batch.input_ids, use_cache=False).logits
    return gather_logprobs(logits[:, :-1][batch.loss_mask[:, 1:]].float(), targets)


def short_sequences(vocab_size: int) -> list[TokenSequence]:
    """Return sequences of tokens from all over a vocabulary."""
    total = sum(map(sum, SIZES))
    ids = iter([(number * vocab_size) // total for number in torch.randperm(
        total, generator=torch.Generator().manual_seed(1)).tolist()])  # fmt: skip
    return [
        TokenSequence([next(ids) for _ in range(p)], [next(ids) for _ in range(c)], i)
        for i, (p, c) in enumerate(SIZES)
    ]
