"""Sampling with transformers in this process: the laptop's default.

# B rows of a batch, T tokens so far, V vocabulary
Prompts are padded on the left with explicit position ids and an attention mask. Requests of equal
prompts share one prefill. Rows that have ended leave the batch. Threads share the batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from r1pipe.generate.grouped_queries import grouped
from r1pipe.generate.key_value_cache import key_value_cache
from r1pipe.generate.protocol import (
    Request,
    Sampled,
    SamplingParams,
    Weights,
    in_prompt_order,
)
from r1pipe.generate.room import check_room, room_of
from r1pipe.generate.uniforms import uniforms
from r1pipe.machine import give_back_memory
from r1pipe.models.adapters import is_adapted
from r1pipe.models.interfaces import LanguageModel
from r1pipe.models.precision import computing
from r1pipe.records import FinishReason
from r1pipe.settings import Precision
from r1pipe.workers import in_order

DROP_ENDED_BELOW = 0.75  # rows leave the batch when fewer than this share are still running


@dataclass
class _Row:
    request: Request
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class TransformersGenerator:
    """Samples from a transformers model; it may be the very object that is being trained."""

    def __init__(
        self,
        model: LanguageModel,
        *,
        end_ids: Sequence[int],
        pad_id: int,
        max_batch: int,
        workers: int = 1,
        precision: Precision = "float32",
    ) -> None:
        self.model = model
        self.end_ids = frozenset(end_ids)
        self.pad_id = pad_id
        self.max_batch = max_batch
        self.workers = workers
        self.precision = precision
        self.context = context_of(model.config)
        self.on_tokens: Callable[[int, Sequence[int]], None] | None = None
        self._end = Event()
        """Set when nobody waits for the batches at work any more."""

    def generate(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Sampled]:
        """Yield every request's completion, batch by batch (prompts of like length together).

        A completion ends at the latest where the model's context does; a prompt that fills it is a
        StageError.
        """
        check_room(requests, self.context)
        ordered = sorted(requests, key=in_prompt_order)
        was_training = self.model.training
        self.model.eval()
        starts = range(0, len(ordered), self.max_batch)
        batches = [ordered[start : start + self.max_batch] for start in starts]
        work = in_order(lambda b: self._sampled(b, sampling), batches, self.workers, self._end.set)
        try:
            with closing(work):
                for done in work:
                    yield from done
        finally:
            self._end.clear()
            self.model.train(was_training)

    def _sampled(self, requests: Sequence[Request], sampling: SamplingParams) -> list[Sampled]:
        with computing(self.model, self.precision), grouped():
            return self._batch(requests, sampling)

    @torch.no_grad()
    def _batch(self, requests: Sequence[Request], sampling: SamplingParams) -> list[Sampled]:
        cache, attention, logits = self._prefill(requests)
        rows = [_Row(request) for request in requests]
        positions = attention.sum(dim=1, keepdim=True)  # [B, 1] of the next token
        finished: list[Sampled] = []
        active = list(range(len(rows)))  # row numbers, in the order of the cache
        for step in range(sampling.max_tokens):
            if self._end.is_set():
                break
            seeds = np.array([rows[r].request.seed for r in active], dtype=np.uint64)
            tokens, logprobs = choose_tokens(logits, uniforms(seeds, step), sampling)
            running = self._record(rows, active, tokens, logprobs, finished, sampling.max_tokens)
            if not running or step + 1 == sampling.max_tokens:
                break
            if len(running) < DROP_ENDED_BELOW * len(active):
                keep = torch.tensor(running, device=logits.device)
                cache.reorder_cache(keep)  # states of linear layers too
                attention, positions, tokens = attention[keep], positions[keep], tokens[keep]
                active = [active[i] for i in running]
            attention = torch.cat([attention, attention.new_ones(len(active), 1)], dim=1)
            output = self.model(
                input_ids=tokens[:, None],
                attention_mask=attention,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
            logits, positions = output.logits[:, -1].float(), positions + 1
            if self.context is not None:  # of rows that have ended, but are still in the batch
                positions = positions.clamp(max=self.context - 1)
        ended = {s.index for s in finished}
        finished.extend(
            Sampled(row.request.index, row.token_ids, row.logprobs, FinishReason.LENGTH)
            for row in rows
            if row.request.index not in ended
        )
        return finished

    def _record(
        self,
        rows: list[_Row],
        active: list[int],
        tokens: Tensor,
        logprobs: Tensor,
        finished: list[Sampled],
        max_tokens: int,
    ) -> list[int]:
        """Append one token to every running row; return the places in `active` still running."""
        running = []
        chosen = zip(active, tokens.tolist(), logprobs.tolist(), strict=True)
        for place, (number, token, logprob) in enumerate(chosen):
            row = rows[number]
            if row.token_ids and row.token_ids[-1] in self.end_ids:
                continue  # ended, but not yet dropped from the batch
            if len(row.token_ids) >= room_of(row.request, max_tokens, self.context):
                continue
            row.token_ids.append(token)
            row.logprobs.append(logprob)
            if self.on_tokens is not None:
                self.on_tokens(row.request.index, row.token_ids)
            if token in self.end_ids:
                finished.append(
                    Sampled(row.request.index, row.token_ids, row.logprobs, FinishReason.STOP)
                )
            elif len(row.token_ids) < room_of(row.request, max_tokens, self.context):
                running.append(place)
        return running

    def _prefill(self, requests: Sequence[Request]) -> tuple[DynamicCache, Tensor, Tensor]:
        """Run every distinct prompt once, then repeat its cache for each request of it."""
        prompts = list(dict.fromkeys(request.prompt_ids for request in requests))
        place = {prompt: i for i, prompt in enumerate(prompts)}
        width = max(map(len, prompts))
        device = self.model.device
        ids = torch.full((len(prompts), width), self.pad_id, device=device)
        attention = torch.zeros((len(prompts), width), dtype=torch.int64, device=device)
        for i, prompt in enumerate(prompts):
            ids[i, width - len(prompt) :] = torch.tensor(prompt, device=device)
            attention[i, width - len(prompt) :] = 1
        positions = (attention.cumsum(dim=1) - 1).clamp(min=0)
        cache = key_value_cache(self.model.config)
        output = self.model(
            input_ids=ids,
            attention_mask=attention,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        repeat = torch.tensor([place[r.prompt_ids] for r in requests], device=device)
        cache.reorder_cache(repeat)
        return cache, attention[repeat], output.logits[:, -1].float()[repeat]

    def load_weights(self, tensors: Weights) -> None:
        """Copy weights by name; nothing to do for tensors that are the model's own."""
        if is_adapted(self.model):
            return  # it is the trained model itself
        own = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        with torch.no_grad():
            for name, tensor in tensors:
                if own[name] is not tensor:
                    own[name].copy_(tensor)

    def sleep(self) -> None:
        """Give back what the caches took: their blocks fit nothing that the trainer asks for."""
        give_back_memory()

    def close(self) -> None:
        """End batches that another thread waits for; the model belongs to the caller."""
        self._end.set()


def context_of(config: Any) -> int | None:
    """Return how many positions a model has; None if they do not end."""
    found = getattr(config.get_text_config(), "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


def choose_tokens(
    logits: Tensor, draws: NDArray[np.float64], sampling: SamplingParams
) -> tuple[Tensor, Tensor]:
    """Return one token per row by inverting its cumulative distribution, and its log-probability.

    [B, V], [B] -> [B], [B]. The cumulative sum is float64: in float32 the tail of a large
    vocabulary would be out of reach.
    """
    if sampling.temperature == 0:
        logprobs = torch.log_softmax(logits, dim=-1)
        tokens = logits.argmax(dim=-1)
        return tokens, logprobs.gather(1, tokens[:, None])[:, 0]
    logprobs = torch.log_softmax(logits / sampling.temperature, dim=-1)
    probabilities = logprobs.double().exp()
    if sampling.top_p < 1.0:
        probabilities = cut_tail(probabilities, sampling.top_p)
    cumulative = probabilities.cumsum(dim=-1)
    targets = torch.as_tensor(draws, device=logits.device)[:, None] * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, targets, right=True)[:, 0]
    tokens = tokens.clamp(max=logits.shape[-1] - 1)
    return tokens, logprobs.gather(1, tokens[:, None])[:, 0]


def cut_tail(probabilities: Tensor, top_p: float) -> Tensor:
    """Zero all but the smallest set of tokens whose probabilities sum to `top_p`.  [B, V]"""
    ordered, places = probabilities.sort(dim=-1, descending=True)
    before = ordered.cumsum(dim=-1) - ordered
    kept = torch.where(before < top_p, ordered, torch.zeros_like(ordered))
    return torch.zeros_like(probabilities).scatter(1, places, kept)
