"""Micro-batches divided among ranks: each rank has its own, or a shard of those that it shares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import AttentionInterface

from r1pipe.models.interfaces import LanguageModel
from r1pipe.ranks import Ranks
from r1pipe.tables import gather_floats
from r1pipe.train import packed
from r1pipe.train.batching import MicroBatch
from r1pipe.train.engine import TokenFunction
from r1pipe.train.sequence_parallel import (
    ATTENTION,
    attend,
    check_heads,
    join,
    split,
    targets_of_shards,
)

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class BatchSharder:
    """One rank's place in a group of ranks that share micro-batches; a group may be one rank."""

    def __init__(self, model: LanguageModel, ranks: Ranks, group_size: int) -> None:
        """Make the groups; all ranks call this together.

        Raises StageError if the model's heads cannot be divided.
        """
        self._model = model
        self._device = model.device
        self._ranks = ranks
        self._size = group_size
        self._num_groups = ranks.size // group_size
        self._group_number, self._number = divmod(ranks.rank, group_size)
        self._group: ProcessGroup | None = None
        if group_size > 1:
            check_heads(model.config, group_size)
            for first in range(0, ranks.size, group_size):
                group = dist.new_group(list(range(first, first + group_size)))
                if first == self._group_number * group_size:
                    self._group = group

    def mine(self, everyone: list[MicroBatch]) -> Iterator[tuple[MicroBatch, bool, bool]]:
        """Yield this rank's micro-batches, whether each is its last one, and whether it counts.

        All ranks get as many; if they do not divide evenly, the last ones count nothing.
        """
        for first in range(0, len(everyone), self._num_groups):
            of_round = everyone[first : first + self._num_groups]
            counts = self._group_number < len(of_round)
            batch = of_round[self._group_number if counts else 0]
            if self._size > 1:
                batch = split(batch, self._number, self._size, self._group)
            most = max(max(targets_of_shards(each, self._size)) for each in of_round)
            is_last = first + self._num_groups >= len(everyone)
            yield replace(batch, most_targets=most).to(self._device), is_last, counts

    def per_token(
        self,
        compute: Callable[[MicroBatch, TokenFunction], Tensor],
        batches: Iterable[MicroBatch],
        function: TokenFunction,
    ) -> list[list[float]]:
        """Return the function's numbers for every micro-batch, in their order, on every rank."""
        everyone = list(batches)
        with self.attending(everyone), torch.no_grad():
            found = [compute(batch, function).tolist() for batch, *_ in self.mine(everyone)]
        of_ranks = gather_floats(self._ranks, found)
        joined = []
        for number, batch in enumerate(everyone):
            place, group = divmod(number, self._num_groups)
            members = of_ranks[group * self._size : (group + 1) * self._size]
            parts = [member[place] for member in members]
            joined.append(parts[0] if self._size == 1 else join(batch, parts))
        return joined

    @contextmanager
    def attending(self, everyone: Sequence[MicroBatch]) -> Iterator[None]:
        """Have the model exchange around its attention inside the block, and only there: outside
        of it the same model may sample, on each rank what that rank likes."""
        if self._size == 1:
            with packed.attending(self._model, everyone):
                yield
            return
        AttentionInterface.register(ATTENTION, attend)
        before = self._model.config._attn_implementation
        self._model.set_attn_implementation(ATTENTION)
        try:
            yield
        finally:
            self._model.set_attn_implementation(before)

    def close(self) -> None:
        """Give the group up."""
        if self._group is not None:
            dist.destroy_process_group(self._group)
