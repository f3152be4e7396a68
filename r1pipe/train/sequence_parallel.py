"""Sequence parallelism: the ranks of a group share every micro-batch (Ulysses, arXiv:2309.14509).

# B rows, T positions of a row, N ranks of a group, S = T / N positions of one rank
# A heads, K key-value heads, D their size
Each rank holds S positions of every row. Around attention the ranks exchange: each has all T
positions of A / N heads there, and its own positions of all heads again after it. Everything else
in the model looks at one position at a time. A rank computes the loss of the tokens that its
positions predict; added over ranks, that is the loss of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from r1pipe.errors import StageError
from r1pipe.train.batching import MicroBatch, SequenceShard
from r1pipe.train.packed import check_plain

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from transformers import PretrainedConfig

ATTENTION = "r1pipe-ulysses"
"""The name under which transformers finds this attention."""
Operation = Callable[[Tensor, Any], Tensor]
"""(values, group) -> what this rank gets."""


def check_heads(config: PretrainedConfig, size: int) -> None:
    """Raise StageError if `size` ranks cannot share the attention heads of a model."""
    heads: int = config.num_attention_heads
    kv_heads: int = getattr(config, "num_key_value_heads", None) or heads
    fit = [n for n in range(1, heads + 1) if fits(heads, kv_heads, n)]
    if size not in fit:
        raise StageError(
            f"run.engine.sequence_parallel: {size} ranks cannot share {heads} heads and {kv_heads}"
            f" key-value heads; this model allows {', '.join(map(str, fit))}"
        )


def fits(heads: int, kv_heads: int, size: int) -> bool:
    """Return whether each rank can have whole heads, and all key-value heads that these read."""
    return heads % size == 0 and (kv_heads % size == 0 or size % kv_heads == 0)


# ---- positions: a micro-batch in shards ----------------------------------------------------------


def split(
    batch: MicroBatch, number: int, size: int, group: ProcessGroup | None = None
) -> MicroBatch:
    """Return one of `size` shards of a micro-batch, with the token after its last position.

    Rows are padded until they divide. The first token of a shard is predicted by the shard before.
    """
    width = -(-batch.input_ids.shape[1] // size)  # S
    whole = padded(batch, size * width + 1)
    places = slice(number * width, (number + 1) * width + 1)
    mine = whole.mapped(lambda tensor: tensor[:, places])
    loss_mask = mine.loss_mask.clone()
    loss_mask[:, 0] = False
    shard = SequenceShard(number, size, group, *structure(whole))
    return replace(mine, loss_mask=loss_mask, shard=shard)


def padded(batch: MicroBatch, width: int) -> MicroBatch:
    """Return the micro-batch with rows padded on the right; padding has position 0."""
    more = width - batch.input_ids.shape[1]
    index = pad(batch.sequence_index, (0, more), value=-1)
    return replace(batch.mapped(lambda tensor: pad(tensor, (0, more))), sequence_index=index)


def structure(whole: MicroBatch) -> tuple[tuple[int, ...] | None, Tensor | None]:
    """Return the bounds of packed sequences and the mask of rows padded on the left.

    Rows padded on the right need neither: what comes later is not attended to. The last column is
    no position.
    """
    if whole.attention_mask is None:
        assert len(whole.position_ids) == 1, "packed rows come one by one"
        starts = (whole.position_ids[0] == 0).nonzero()[:, 0].tolist()  # padding: each its own
        return tuple(starts), None
    real = whole.attention_mask[:, :-1].bool()  # [B, T]
    if not (real[:, 1:] & ~real[:, :-1]).any():
        return None, None
    causal = torch.ones(2 * real.shape[1:], dtype=torch.bool, device=real.device).tril()
    return None, causal & real[:, None, None, :]


def join(batch: MicroBatch, shards: Sequence[Sequence[float]]) -> list[float]:
    """Put the numbers of all shards' trained tokens into the row order of the whole micro-batch."""
    width = -(-batch.input_ids.shape[1] // len(shards))
    values = [iter(shard) for shard in shards]
    places = batch.loss_mask.nonzero()[:, 1].tolist()
    return [next(values[(place - 1) // width]) for place in places]


def targets_of_shards(batch: MicroBatch, size: int) -> list[int]:
    """Return how many trained tokens each of `size` shards of a micro-batch predicts."""
    width = -(-batch.input_ids.shape[1] // size)
    columns = batch.loss_mask.sum(dim=0)[1:]
    return [int(columns[start : start + width].sum()) for start in range(0, size * width, width)]


# ---- heads: attention over all positions ---------------------------------------------------------


def attend(  # noqa: PLR0913 - as transformers calls it
    module: Any,
    query: Tensor,  # [B, A, S, D]
    key: Tensor,  # [B, K, S, D]
    value: Tensor,  # [B, K, S, D]
    attention_mask: Tensor | None,
    *,
    sequence_shard: SequenceShard,
    dropout: float = 0.0,
    scaling: float | None = None,
    **asked: Any,
) -> tuple[Tensor, None]:
    """Attend over the positions of all ranks, each rank with its heads.  -> [B, S, A, D]

    Called by the layers of a transformers model. Raises StageError for kinds of attention that it
    does not know.
    """
    check_plain(asked, "run.engine.sequence_parallel", "sequence_parallel: 1")
    group, size = sequence_shard.group, sequence_shard.size
    query, key, value = (gather_positions(heads, size, group) for heads in (query, key, value))

    def attended(positions: slice, mask: Tensor | None = None) -> Tensor:
        return scaled_dot_product_attention(
            *(query[:, :, positions], key[:, :, positions], value[:, :, positions]),
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=mask is None,
            scale=scaling,
            enable_gqa=True,
        )

    if sequence_shard.bounds is None:
        found = attended(slice(None), attention_mask)
    else:  # packed sequences, one after another: no mask of all positions by all positions
        places = [slice(*ends) for ends in pairwise(sequence_shard.bounds)]
        found = torch.cat([attended(each) for each in places], dim=2)
    return gather_heads(found, size, group).transpose(1, 2).contiguous(), None


def gather_positions(heads: Tensor, size: int, group: ProcessGroup | None = None) -> Tensor:
    """Return all positions of this rank's heads, given all heads at its positions.

    [B, A, S, D] -> [B, A / N, T, D]. Fewer heads than ranks are repeated: each rank gets the one
    that its query heads read.
    """
    if heads.shape[1] < size:
        heads = heads.repeat_interleave(size // heads.shape[1], dim=1)
    rows, count, width, depth = heads.shape
    of_ranks = heads.reshape(rows, size, count // size, width, depth).movedim(1, 0)
    found = exchange(of_ranks, group).movedim(0, 2)  # [B, A / N, N, S, D]
    return found.reshape(rows, count // size, size * width, depth)


def gather_heads(positions: Tensor, size: int, group: ProcessGroup | None = None) -> Tensor:
    """Return all heads at this rank's positions: [B, A / N, T, D] -> [B, A, S, D]."""
    rows, count, width, depth = positions.shape
    of_ranks = positions.reshape(rows, count, size, width // size, depth).movedim(2, 0)
    found = exchange(of_ranks, group).movedim(0, 1)  # [B, N, A / N, S, D]
    return found.reshape(rows, size * count, width // size, depth)


def exchange(blocks: Tensor, group: ProcessGroup | None = None) -> Tensor:
    """Give block n to rank n, and get as block n what rank n gave.  [N, ...] -> [N, ...]"""
    found: Tensor = _Collective.apply(blocks, _all_to_all, group)  # type: ignore[no-untyped-call]
    return found


def add_over_shards(values: Tensor, batch: MicroBatch) -> Tensor:
    """Return the sum over all shards of a micro-batch, on every rank that has one."""
    if batch.shard is None:
        return values
    group = batch.shard.group
    found: Tensor = _Collective.apply(values, _all_reduce, group)  # type: ignore[no-untyped-call]
    return found


class _Collective(torch.autograd.Function):
    """A symmetric exchange between ranks: gradients go back the way that values came."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, operation: Operation, group: ProcessGroup | None
    ) -> Tensor:
        ctx.operation, ctx.group = operation, group
        return operation(values, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.operation(gradients[0], ctx.group), None, None


def _all_to_all(blocks: Tensor, group: ProcessGroup | None) -> Tensor:
    given = blocks.contiguous()
    found = torch.empty_like(given)
    dist.all_to_all_single(found, given, group=group)
    return found


def _all_reduce(values: Tensor, group: ProcessGroup | None) -> Tensor:
    found = values.clone()
    dist.all_reduce(found, group=group)
    return found
