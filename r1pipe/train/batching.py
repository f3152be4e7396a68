"""Sequences, loss masks and micro-batches: padded, or packed without cross-contamination.

# B rows, T tokens of a row, N trained tokens
A sequence is a prompt and a completion; only the completion is trained, its first token and its
end-of-sequence token included. A completion of several turns says itself which of its tokens are.
The mask comes from lengths, never from comparing ids with the pad token: if pad equals
end-of-sequence, that would leave the stop untrained.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from r1pipe.engine_settings import TrainRun
from r1pipe.records import TokenSequence
from r1pipe.workers import num_workers

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Layout = Literal["padded", "packed"]


@dataclass(frozen=True, slots=True)
class SequenceShard:
    """Which positions of a micro-batch this rank holds (`r1pipe.train.sequence_parallel`)."""

    number: int
    """From 0; shards are contiguous and of equal width."""
    size: int
    """How many shards there are."""
    group: ProcessGroup | None
    """The process group whose ranks hold them, in their order."""
    bounds: tuple[int, ...] | None = None
    """Where the sequences of the whole packed row begin, and where the last one ends."""
    mask: Tensor | None = None  # [B, 1, T, T] bool; None: causal inside each sequence
    """What attends to what in the whole rows, if they are padded on the left."""

    def to(self, device: torch.device | str) -> SequenceShard:
        """Return the shard on a device."""
        return self if self.mask is None else replace(self, mask=self.mask.to(device))


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Some sequences as tensors.

    `loss_mask[b, t]` says that token t is trained; its log-probability is read at position t - 1.
    `sequence_index[b, t]` is the `index` of the sequence that token t belongs to (-1 for padding),
    and `streams[name][b, t]` a number of token t (0 outside of completions).

    If `shard` is set, the tensors hold the tokens at this rank's positions and one more: the model
    runs over all but the last, which is there to be predicted.
    """

    input_ids: Tensor  # [B, T] int64
    position_ids: Tensor  # [B, T] int64, from 0 in every sequence
    attention_mask: Tensor | None  # [B, T] bool; None for packed rows
    loss_mask: Tensor  # [B, T] bool
    sequence_index: Tensor  # [B, T] int64
    streams: Mapping[str, Tensor] = field(default_factory=dict)  # [B, T] float32 each
    """Per-token numbers by name, such as `advantage`."""
    shard: SequenceShard | None = None
    most_targets: int = 0
    """Most trained tokens that any rank has beside this one: the head is called as often on all."""

    @property
    def is_first_shard(self) -> bool:
        """Return whether this rank counts a value that all ranks that share these rows know."""
        return self.shard is None or self.shard.number == 0

    def at_trained(self, name: str) -> Tensor:
        """Return a stream at the trained tokens, in row order.  -> [N]"""
        return self.streams[name][self.loss_mask]

    def to(self, device: torch.device | str) -> MicroBatch:
        """Return the batch on a device."""
        shard = None if self.shard is None else self.shard.to(device)
        return replace(self.mapped(lambda tensor: tensor.to(device)), shard=shard)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> MicroBatch:
        """Return the batch with every [B, T] tensor changed."""
        return replace(
            self,
            input_ids=change(self.input_ids),
            position_ids=change(self.position_ids),
            attention_mask=None if self.attention_mask is None else change(self.attention_mask),
            loss_mask=change(self.loss_mask),
            sequence_index=change(self.sequence_index),
            streams={name: change(stream) for name, stream in self.streams.items()},
        )


@dataclass(frozen=True)
class Batching:
    """How a step is computed; up to rounding it does not decide the result."""

    micro_batch_tokens: int
    layout: Layout
    pad_id: int
    workers: int = 1


def batching_of(run: TrainRun, pad_id: int) -> Batching:
    """Return how a stage's steps are computed."""
    workers = num_workers(run.workers, run.device)
    return Batching(run.micro_batch_tokens, run.layout, pad_id, workers)


def count_loss_tokens(sequences: Sequence[TokenSequence]) -> int:
    """Return the number of trained tokens: the one denominator of a whole optimizer step."""
    return sum(sequence.num_trained for sequence in sequences)


def micro_batches(sequences: Sequence[TokenSequence], batching: Batching) -> Iterator[MicroBatch]:
    """Yield micro-batches of at most so many positions (one sequence may exceed that)."""
    max_tokens, pad_id = batching.micro_batch_tokens, batching.pad_id
    if batching.layout == "packed":
        for row in pack(sequences, max_tokens):
            yield _assemble([row], pad_id, is_packed=True)
        return
    rows: list[list[TokenSequence]] = []
    for sequence in sorted(sequences, key=len, reverse=True):
        if rows and (len(rows) + 1) * len(rows[0][0]) > max_tokens:
            yield _assemble(rows, pad_id, is_packed=False)
            rows = []
        rows.append([sequence])
    if rows:
        yield _assemble(rows, pad_id, is_packed=False)


def one_batch(sequences: Sequence[TokenSequence], pad_id: int) -> MicroBatch:
    """Return all sequences as one padded micro-batch, in their order."""
    return _assemble([[sequence] for sequence in sequences], pad_id, is_packed=False)


def by_sequence(
    batches: Iterable[MicroBatch], values: Iterable[Sequence[float]], num_sequences: int
) -> list[list[float]]:
    """Return the numbers of trained tokens by the `index` of their sequence, below `num_sequences`.

    `values` has a number for each trained token of every micro-batch, in row order.
    """
    rows: list[list[float]] = [[] for _ in range(num_sequences)]
    for batch, numbers in zip(batches, values, strict=True):
        indices = batch.sequence_index[batch.loss_mask].tolist()
        for index, number in zip(indices, numbers, strict=True):
            rows[index].append(number)
    return rows


def pack(sequences: Sequence[TokenSequence], max_tokens: int) -> list[list[TokenSequence]]:
    """Put sequences into rows of at most `max_tokens`: as few as best fit needs, evenly filled.

    Workers and ranks that compute a row each wait for the longest one.
    """
    ordered = sorted(sequences, key=len, reverse=True)
    tight = _best_fit(ordered, max_tokens)
    even = _evenly(ordered, len(tight))
    fits = all(len(row) == 1 or sum(map(len, row)) <= max_tokens for row in even)
    return even if fits else tight


def _best_fit(ordered: Sequence[TokenSequence], max_tokens: int) -> list[list[TokenSequence]]:
    """Put each sequence, longest first, into the fullest row that has room for it."""
    rows: list[list[TokenSequence]] = []
    room: list[tuple[int, int]] = []  # of each row that has any, and its number; ascending
    for sequence in ordered:
        fits = bisect_left(room, (len(sequence), 0))
        if fits < len(room):
            free, best = room.pop(fits)
        else:
            free, best = max(max_tokens, len(sequence)), len(rows)
            rows.append([])
        rows[best].append(sequence)
        if free > len(sequence):
            insort(room, (free - len(sequence), best))
    return rows


def _evenly(ordered: Sequence[TokenSequence], num_rows: int) -> list[list[TokenSequence]]:
    """Put each sequence, longest first, into the emptiest row."""
    rows: list[list[TokenSequence]] = [[] for _ in range(num_rows)]
    filled = [(0, row) for row in range(num_rows)]
    for sequence in ordered:
        tokens, row = heapq.heappop(filled)
        rows[row].append(sequence)
        heapq.heappush(filled, (tokens + len(sequence), row))
    return rows


def _assemble(rows: list[list[TokenSequence]], pad_id: int, *, is_packed: bool) -> MicroBatch:
    width = max(sum(len(s) for s in row) for row in rows)
    shape = (len(rows), width)
    input_ids, positions = np.full(shape, pad_id), np.zeros(shape, dtype=np.int64)
    attention, loss_mask = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    index = np.full(shape, -1)
    streams = {name: np.zeros(shape, dtype=np.float32) for name in rows[0][0].streams}
    for r, row in enumerate(rows):
        start = 0
        for sequence in row:
            if not sequence.prompt_ids:
                raise ValueError("a prompt is empty: its first completed token has no predecessor")
            first, end = start + len(sequence.prompt_ids), start + len(sequence)
            input_ids[r, start:first] = sequence.prompt_ids
            input_ids[r, first:end] = sequence.completion_ids
            positions[r, start:end] = np.arange(end - start)
            attention[r, start:end] = True
            loss_mask[r, first:end] = True if sequence.trained is None else sequence.trained
            index[r, start:end] = sequence.index
            for name, stream in streams.items():
                stream[r, first:end] = sequence.streams[name]
            start = end
    return MicroBatch(
        torch.from_numpy(input_ids),
        torch.from_numpy(positions),
        None if is_packed else torch.from_numpy(attention),
        torch.from_numpy(loss_mask),
        torch.from_numpy(index),
        {name: torch.from_numpy(stream) for name, stream in streams.items()},
    )
