"""Steps of a completion: where each ends, and what a process reward model or a rule gives it.

Process supervision is section 4.1.3 of DeepSeekMath (arXiv:2402.03300). Outcome supervision is the
case of one step, at the last token.

# B rows, T tokens, K step ends of a micro-batch
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from r1pipe.engine_settings import TrainRun
from r1pipe.models.interfaces import LanguageModel, Tokenizer
from r1pipe.models.policy import freeze, load_model, load_tokenizer
from r1pipe.models.precision import dtype_of
from r1pipe.models.prompts import after_opened, encode_completion, encode_prompt, opened_thought
from r1pipe.records import Group, Problem, Rollout, Step, TokenSequence
from r1pipe.settings import Precision
from r1pipe.tasks.table import TASKS
from r1pipe.train.batching import MicroBatch, batching_of, by_sequence, micro_batches
from r1pipe.train.logprobs import hidden_states
from r1pipe.workers import in_order

CUT = "\ufffd"
"""What a tokenizer writes for bytes that are no character, or not yet one."""
MAX_CHARACTER = 4
"""Bytes of a character, and so tokens too."""
SHORT, MAX_KNOWN = 4, 1 << 16
"""Texts of so few tokens come again and again: so many of them are kept."""


StepFn = Callable[[Sequence[tuple[Problem, str]]], list[list[Step]]]
"""(problem, completion text) pairs -> the steps of each, which end at so many characters."""


def line_ends(text: str) -> list[int]:
    """Return where the steps of a text end, in characters: its lines that hold something.

    Math-Shepherd (arXiv:2312.08935) has a step on each line. A line's end is before its line break.
    """
    ends, place = list[int](), 0
    for line in text.splitlines(keepends=True):
        if line.strip():
            ends.append(place + len(line.rstrip()))
        place += len(line)
    return ends


class Decodes(Protocol):
    """What has the texts of tokens: a tokenizer."""

    def decode(self, ids: Sequence[int], /) -> str:
        """Return the text of some tokens."""


class Decoder:
    """Decodes as a tokenizer does; a few tokens, which come again and again, only once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._short = lru_cache(MAX_KNOWN)(lambda ids: tokenizer.decode(list(ids)))

    def decode(self, ids: Sequence[int], /) -> str:
        """Return the text of some tokens."""
        return self._short(tuple(ids)) if len(ids) <= SHORT else self._tokenizer.decode(ids)


def token_ends(tokenizer: Decodes, ids: Sequence[int]) -> list[int]:
    """Return where each token ends in the decoded text, in characters.

    A token that ends inside a character ends where the token before it does. Each token is decoded
    after those before it, back to the last whole character but one: a tokenizer may strip a
    blank at the beginning of a text.
    """
    ends, length, first, read = list[int](), 0, 0, 0
    for place in range(len(ids)):
        if _is_broken(tokenizer, ids, read, place + 1):
            ends.append(length)
            continue
        before = tokenizer.decode(ids[first:read])
        after = tokenizer.decode(ids[first : place + 1])
        if len(after) > len(before) and not after.endswith(CUT):
            length += len(after) - len(before)
            first, read = read, place + 1
        ends.append(length)
    return ends


def _is_broken(tokenizer: Decodes, ids: Sequence[int], read: int, stop: int) -> bool:
    """Return whether a text ends in a character that is not whole, where that shows by its last
    tokens: bytes without a character may go on for ever, and are not decoded again with each.

    Since `read` no character has been whole, though there are more tokens than one has. A tail may
    begin inside of a character: of tails of four lengths one begins where a character does.
    """
    shortest = 2 * MAX_CHARACTER
    if stop - read <= shortest + MAX_CHARACTER:
        return False
    lengths = range(shortest, shortest + MAX_CHARACTER)
    return all(tokenizer.decode(ids[stop - n : stop]).endswith(CUT) for n in lengths)


def in_tokens(tokenizer: Decodes, rollout: Rollout, steps: Sequence[Step]) -> list[Step]:
    """Return steps of a rollout's text as steps of its completion tokens.

    A step that ends with the text ends at the last token, so that the end of sequence is of it.
    What ends before the completion begins, in a prefix that the policy was given, is left out.
    """
    if not rollout.completion_ids:
        return []
    ends = token_ends(tokenizer, rollout.completion_ids)
    has_end = rollout.finish_reason == "stop"
    start = len(rollout.text) - (ends[-2] if has_end and len(ends) > 1 else ends[-1])
    whole, last = len(rollout.text.rstrip()), len(rollout.completion_ids)
    return [
        (last if end >= whole else min(last, bisect_left(ends, end - start) + 1), reward)
        for end, reward in steps
        if end > start
    ]


def assign_steps(
    groups: Sequence[Group],
    tokenizer: Tokenizer,
    score: StepFn,
    name: str,
    *,
    has_outcome: bool,
) -> None:
    """Give every rollout its steps, and the mean of their rewards by name.

    Its own reward, if it has any, is one more step at the last token; a completion without a step
    has this one.
    """
    pairs = [(group.problem, r.text) for group in groups for r in group.rollouts]
    rollouts = [r for group in groups for r in group.rollouts]
    decoder = Decoder(tokenizer)
    for rollout, scored in zip(rollouts, score(pairs), strict=True):
        steps = in_tokens(decoder, rollout, scored)
        if steps:
            rollout.rewards[name] = sum(reward for _, reward in steps) / len(steps)
        if has_outcome or not steps:
            steps.append((len(rollout.completion_ids), rollout.reward))
        rollout.steps = merged(steps)


def merged(steps: Sequence[Step]) -> list[Step]:
    """Return steps with the rewards of those that end at the same token added up.

    >>> merged([(3, 1.0), (5, 0.0), (5, 0.5)])
    [(3, 1.0), (5, 0.5)]
    """
    found = dict[int, float]()
    for end, reward in steps:
        found[end] = found.get(end, 0.0) + reward
    return sorted(found.items())


def rule_steps(pairs: Sequence[tuple[Problem, str]]) -> list[list[Step]]:
    """Return the steps that the tasks of the synthetic world know of; other problems have none."""
    rules = {name: task.steps for name, task in TASKS.items() if task.steps}
    return [
        rules[problem.task](problem, text) if problem.task in rules else []
        for problem, text in pairs
    ]


# ---- a process reward model ----------------------------------------------------------------------


def encode_steps(
    tokenizer: Tokenizer, prompt: str, text: str, ends: Sequence[int]
) -> TokenSequence:
    """Return prompt and text as a sequence whose `trained` tokens are those where steps end.

    The text is encoded step by step, so that each of `ends` (in characters, ascending) is the end
    of a token. The end-of-sequence token is left out: a step's score is read before what follows.
    """
    opened = opened_thought(tokenizer, "chat")
    skipped = len(text) - len(after_opened(text, opened, "chat"))
    ids, marks, start = list[int](), list[bool](), skipped
    for end in ends:
        piece = encode_completion(tokenizer, text[start:end])[:-1] if end > start else []
        if piece:
            ids += piece
            marks += [False] * (len(piece) - 1) + [True]
        start = max(start, end)
    return TokenSequence(encode_prompt(tokenizer, prompt, "chat"), ids, trained=marks)


def step_scores(model: LanguageModel, batch: MicroBatch) -> Tensor:
    """Return the score at each step's last token, in row order; a logit each.  -> [K]"""
    assert batch.shard is None, "ranks that share positions do not score steps"
    hidden = hidden_states(model, batch)
    values: Tensor = model.score(hidden[batch.loss_mask])[:, 0].float()
    return values


def process_reward_function(
    folder: Path, run: TrainRun, precision: Precision = "float32"
) -> StepFn:
    """Return a function from (problem, completion) pairs to their steps: lines, each with the
    sigmoid of the model's score at its end.

    Equal texts are scored once, as `supervision.reward_model.reward_function` does.
    """
    tokenizer = load_tokenizer(folder)
    kind = AutoModelForSequenceClassification
    model = freeze(load_model(folder, dtype=dtype_of(precision), device=run.device, kind=kind))
    batching = replace(batching_of(run, tokenizer.pad_token_id), layout="padded")

    @torch.no_grad()
    def rate(batch: MicroBatch) -> list[float]:
        rewards: list[float] = torch.sigmoid(step_scores(model, batch.to(run.device))).tolist()
        return rewards

    def score(pairs: Sequence[tuple[Problem, str]]) -> list[list[Step]]:
        distinct = list(dict.fromkeys((problem.prompt, text) for problem, text in pairs))
        ends = [line_ends(text) for _, text in distinct]
        sequences = [
            replace(encode_steps(tokenizer, *each, at), index=number)
            for number, (each, at) in enumerate(zip(distinct, ends, strict=True))
        ]
        batches = list(micro_batches([s for s in sequences if s.completion_ids], batching))
        rewards = in_order(rate, batches, batching.workers)
        found = by_sequence(batches, rewards, len(distinct))
        steps = {
            each: list(zip(at[len(at) - len(values) :], values, strict=True))
            for each, at, values in zip(distinct, ends, found, strict=True)
        }
        return [steps[problem.prompt, text] for problem, text in pairs]

    return score
