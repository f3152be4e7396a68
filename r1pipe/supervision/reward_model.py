"""Reward models: a policy's backbone with a scalar head (arXiv:2501.12948v2, section 3.1).

# B texts, T tokens
They are Hugging Face sequence-classification directories with one label. The score of a text is
read at its last token.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from r1pipe.engine_settings import EngineRun, TrainRun
from r1pipe.errors import StageError
from r1pipe.method_params.preferences import ReadBy
from r1pipe.models.interfaces import LanguageModel, Tokenizer
from r1pipe.models.policy import (
    freeze,
    in_dtype,
    load_model,
    load_tokenizer,
    quiet_loading,
    say_dtype,
    say_form,
)
from r1pipe.models.precision import dtype_of
from r1pipe.models.prompts import after_opened, encode_completion, encode_prompt, opened_thought
from r1pipe.records import Message, Problem, TokenSequence
from r1pipe.rewards.model import RewardFn, helpfulness_text, safety_text
from r1pipe.settings import Precision
from r1pipe.stage import Context
from r1pipe.train.backends import load_trained
from r1pipe.train.batching import MicroBatch, batching_of, micro_batches, one_batch
from r1pipe.train.conversations import TurnEncoder
from r1pipe.train.engine import Engine, Forward
from r1pipe.train.logprobs import hidden_states, vocabulary
from r1pipe.train.own_forward import TOLERANCES, short_sequences
from r1pipe.train.sequence_parallel import add_over_shards
from r1pipe.workers import in_order


def new_reward_model(
    policy: Path, seed: int, run: EngineRun | None = None, precision: Precision = "float32"
) -> Any:
    """Return the policy's backbone with a fresh scalar head, as the engine of `run` wants it; of a
    reward model all of it, its head too."""
    with torch.random.fork_rng(devices=[]), quiet_loading():
        torch.manual_seed(seed)
        return load_trained(
            policy,
            run or EngineRun(),
            precision,
            AutoModelForSequenceClassification,
            num_labels=1,
            fresh=None if is_reward_model(policy) else "score",
        )


def write_reward_model(
    context: Context,
    engine: Engine,
    tokenizer: Tokenizer,
    precision: Precision,
    output: str = "model",
) -> None:
    """Write a trained reward model, in the precision's dtype, as an output; close its engine."""
    model, weights = engine.model, engine.consolidated()
    if weights is not None:
        out, dtype = context.output(output), dtype_of(precision)
        weights = in_dtype(model, weights, dtype)
        model.save_pretrained(out, safe_serialization=True, state_dict=weights)
        tokenizer.save_pretrained(out)
        say_form(out)
        if dtype is not model.dtype:
            say_dtype(out, dtype)
    engine.close()


def is_reward_model(folder: Path) -> bool:
    """Return whether a model's directory has a scalar head of its own."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    names = config.get("architectures") or []
    return any(str(name).endswith("ForSequenceClassification") for name in names)


def scored_text(completion: str, reads: ReadBy) -> str:
    """Return what the model reads of a completion."""
    return helpfulness_text(completion) if reads == "summary" else safety_text(completion)


def encode_scored(
    tokenizer: Tokenizer, prompt: str | Sequence[Message], completion: str, reads: ReadBy
) -> TokenSequence:
    """Return prompt and what is read as a sequence; the score is read at the last token.

    A prompt of several turns may raise `Untrainable`.
    """
    return encode_read(tokenizer, prompt, scored_text(completion, reads))


def encode_read(tokenizer: Tokenizer, prompt: str | Sequence[Message], text: str) -> TokenSequence:
    """Return prompt and the text that is read as a sequence."""
    opened = opened_thought(tokenizer, "chat")
    return TokenSequence(
        encode_prompt(tokenizer, prompt, "chat")
        if isinstance(prompt, str)
        else TurnEncoder(tokenizer).prompt(prompt),
        encode_completion(tokenizer, after_opened(text, opened, "chat")),
    )


def scores(model: LanguageModel, batch: MicroBatch) -> Tensor:
    """Return the score of every row of a padded batch, on all ranks that share it.  -> [B]"""
    assert batch.attention_mask is not None, "scores need padded rows"
    hidden = hidden_states(model, batch)
    if batch.shard is not None:
        ends = batch.attention_mask[:, :-1] & ~batch.attention_mask[:, 1:]  # [B, S]
        found = model.score(hidden[ends])[:, 0].float()  # of the rows that end here
        mine = found.new_zeros(len(ends)).index_put((ends.any(dim=1).nonzero()[:, 0],), found)
        return add_over_shards(mine, batch)
    last = batch.attention_mask.sum(dim=1) - 1
    rows = torch.arange(len(last), device=last.device)
    values: Tensor = model.score(hidden[rows, last])[:, 0].float()
    return values


def check_scores(
    forward: Forward, model: LanguageModel, pad_id: int, precision: Precision
) -> float:
    """Compare scores with those of the family's own forward; return their mean distance.

    All ranks call it together. Raises StageError, with the family's name, on a mismatch.
    """
    drawn = short_sequences(vocabulary(model))
    texts = [replace(s, completion_ids=[i for i in s.completion_ids if i != pad_id]) for s in drawn]
    (ours,) = forward.per_token([one_batch(texts, pad_id)], scores)
    alone = [one_batch([each], pad_id) for each in texts]
    own = [value for (value,) in forward.per_token(alone, own_scores)]
    mean = sum(abs(a - b) for a, b in zip(ours, own, strict=True)) / len(own)
    if not mean <= TOLERANCES[precision]:
        raise StageError(
            f"{model.config.model_type}: training would compute other scores than"
            f" {type(model).__name__} itself (mean difference {mean:.2g} in {precision}); this"
            " family is not supported as a reward model; try another model"
        )
    return mean


def own_scores(model: LanguageModel, batch: MicroBatch) -> Tensor:
    """Return the score of one text by the model's own forward.  -> [1]"""
    found: Tensor = model(input_ids=batch.input_ids, use_cache=False).logits[:, 0].float()
    return found


def reward_function(
    folder: Path, reads: ReadBy, run: TrainRun, precision: Precision = "float32"
) -> RewardFn:
    """Return a function from (problem, completion) pairs to rewards in (0, 1).

    The reward is the sigmoid of the score: a scale was never published. A completion that opens a
    thought and never closes it has no summary and gets 0. What is read twice is scored once: the
    rounding of another micro-batch would make two rewards of equal texts, and an advantage of it.
    """
    tokenizer = load_tokenizer(folder)
    kind = AutoModelForSequenceClassification
    model = freeze(load_model(folder, dtype=dtype_of(precision), device=run.device, kind=kind))
    # the score is read at a row's last token: rows are padded, never packed
    batching = replace(batching_of(run, tokenizer.pad_token_id), layout="padded")

    @torch.no_grad()
    def rate(batch: MicroBatch) -> tuple[MicroBatch, list[float]]:
        return batch, torch.sigmoid(scores(model, batch.to(run.device))).tolist()

    def score(pairs: Sequence[tuple[Problem, str]]) -> list[float]:
        read = [(problem.prompt, scored_text(text, reads)) for problem, text in pairs]
        distinct = [(prompt, text) for prompt, text in dict.fromkeys(read) if text]
        sequences = [
            replace(encode_read(tokenizer, prompt, text), index=i)
            for i, (prompt, text) in enumerate(distinct)
        ]
        rewards: dict[tuple[str, str], float] = {}
        for batch, values in in_order(rate, micro_batches(sequences, batching), batching.workers):
            for index, value in zip(batch.sequence_index[:, 0].tolist(), values, strict=True):
                rewards[distinct[index]] = value
        return [rewards.get(each, 0.0) for each in read]

    return score
