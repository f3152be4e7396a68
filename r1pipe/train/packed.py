"""Attention over packed rows: each sequence attends only to itself, as if it had a row of its own.

# T positions of a packed row, B sequences in it, L positions of the longest one
# A heads, K key-value heads, D their size
transformers would give all T positions a mask of T x T and compute all of it. Here the sequences
are put beside one another only for attention, [B, L]; norms, projections and the head compute no
padding. On a GPU in half precision PyTorch has a kernel that takes the row as it is; so has
flash-attention, which is used as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from r1pipe.errors import StageError
from r1pipe.models.interfaces import LanguageModel
from r1pipe.train.batching import MicroBatch

if TYPE_CHECKING:
    from transformers import PretrainedConfig


CAUSAL = (-1, 0)
"""The window of a position: everything before it, nothing after."""
MAX_HEAD_SIZE = 256
"""Of the flash kernel."""
PREFIX = "r1pipe-packed-"
"""Before the name of the attention that it computes each sequence with."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Positions of the sequences of a packed row."""

    positions: Tensor  # [B * L] int64, in the row; 0 if a sequence is shorter than L
    places: Tensor  # [T] int64, of each position among the B * L
    bounds: Tensor  # [B + 1] int32, where sequences begin in the row, and the last one ends
    longest: int  # L

    @property
    def num_sequences(self) -> int:
        """Sequences of the row."""
        return len(self.bounds) - 1


def blocks_of(position_ids: Tensor) -> Blocks:
    """Return the sequences of a packed row, which begin where a position is 0.  [1, T]"""
    positions = position_ids[0]
    length = len(positions)
    starts = (positions == 0).nonzero()[:, 0]  # [B]
    lengths = torch.diff(starts, append=starts.new_tensor([length]))
    longest = int(lengths.max())
    inside = torch.arange(longest, device=positions.device) < lengths[:, None]  # [B, L]
    found = torch.zeros(inside.shape, dtype=torch.int64, device=positions.device)
    found[inside] = torch.arange(length, device=positions.device)
    places = inside.flatten().nonzero()[:, 0]
    bounds = torch.cat([starts, starts.new_tensor([length])]).to(torch.int32)
    return Blocks(found.flatten(), places, bounds, longest)


class Weigh(Protocol):
    """Causal attention of sequences beside one another: query [B, A, L, D] -> [B, A, L, D]."""

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, *, dropout: float, scaling: float | None
    ) -> Tensor: ...


def attend(  # noqa: PLR0913 - as transformers calls it
    module: Any,
    query: Tensor,  # [1, A, T, D]
    key: Tensor,  # [1, K, T, D]
    value: Tensor,  # [1, K, T, D]
    attention_mask: Tensor | None,
    *,
    weigh: Weigh,
    blocks: Blocks,
    dropout: float = 0.0,
    scaling: float | None = None,
    **asked: Any,
) -> tuple[Tensor, None]:
    """Attend inside each sequence.  -> [1, T, A, D]

    Called by the layers of a transformers model. Raises StageError as `check_plain` does.
    """
    check_plain(asked, "run.layout: packed", "layout: padded")
    query, key, value = as_computed(query, key, value)
    if weigh is fused and not dropout and has_varlen_kernel(query, value):
        return varlen(query, key, value, blocks, scaling)[None], None
    beside = (_beside(heads, blocks) for heads in (query, key, value))
    attended = weigh(*beside, dropout=dropout, scaling=scaling)  # [B, A, L, D]
    heads, size = attended.shape[1], attended.shape[3]
    flat = attended.transpose(1, 2).reshape(-1, heads, size)  # [B * L, A, D]
    return flat.index_select(0, blocks.places)[None], None


def as_computed(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the three in the dtype in which autocast computes attention on a GPU: rotation lifts
    queries and keys to float32 there, which the kernel does not take."""
    if not query.is_cuda or not torch.is_autocast_enabled("cuda"):
        return query, key, value
    dtype = torch.get_autocast_dtype("cuda")
    return query.to(dtype), key.to(dtype), value.to(dtype)


def has_varlen_kernel(query: Tensor, value: Tensor) -> bool:
    """Return whether PyTorch's attention of sequences of any lengths computes such heads: values
    of latent attention (DeepSeek-V3) are shorter than its keys, which the kernel refuses."""
    size, is_half = query.shape[3], query.dtype in (torch.bfloat16, torch.float16)
    is_computed = is_half and size % 8 == 0 and size <= MAX_HEAD_SIZE
    return query.is_cuda and is_computed and value.shape[3] == size


def varlen(
    query: Tensor, key: Tensor, value: Tensor, blocks: Blocks, scaling: float | None
) -> Tensor:
    """Attend inside each sequence of a row by PyTorch's kernel for that: no padding, no mask, no
    copy.  -> [T, A, D]"""
    from torch.nn.attention.varlen import varlen_attn  # it loads PyTorch's compiler

    queries, keys, values = (heads[0].transpose(0, 1) for heads in (query, key, value))
    bounds, longest = blocks.bounds, blocks.longest
    found = varlen_attn(
        queries, keys, values, bounds, bounds, longest, longest,
        scale=scaling, window_size=CAUSAL, enable_gqa=True,
    )  # fmt: skip
    assert isinstance(found, Tensor), "no statistics were asked for"
    return found


def _beside(heads: Tensor, blocks: Blocks) -> Tensor:
    """Put the sequences of a packed row beside one another.  [1, A, T, D] -> [B, A, L, D]"""
    _, count, _, size = heads.shape
    found = heads[0].index_select(1, blocks.positions)
    return found.reshape(count, blocks.num_sequences, -1, size).transpose(0, 1)


def fused(
    query: Tensor, key: Tensor, value: Tensor, *, dropout: float, scaling: float | None
) -> Tensor:
    """Attend by PyTorch's fused function."""
    return scaled_dot_product_attention(
        query, key, value, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=True
    )


def products(
    query: Tensor, key: Tensor, value: Tensor, *, dropout: float, scaling: float | None
) -> Tensor:
    """Attend by plain products, as transformers' `eager` does.

    The query heads that share keys are put after one another, so that no key is repeated.
    """
    rows, heads, length, size = query.shape
    kv_heads = key.shape[1]
    repeats = heads // kv_heads
    scaled = query * (size**-0.5 if scaling is None else scaling)
    queries = scaled.reshape(rows, kv_heads, repeats * length, size)
    later = torch.full((length, length), float("-inf"), dtype=query.dtype, device=query.device)
    scores = torch.matmul(queries, key.transpose(2, 3)) + later.triu(1).repeat(repeats, 1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32)  # [B, K, A / K * L, L]
    values = torch.matmul(drop(weights.to(query.dtype), dropout), value)
    return values.reshape(rows, heads, length, size)


WEIGH: dict[str, Weigh] = {"sdpa": fused, "eager": products}
UNSUPPORTED = ("position_bias", "s_aux", "sliding_window", "softcap")
"""Arguments that the layers of some models pass and our attention does not support."""
IN_CONFIG = ("sliding_window", "attn_logit_softcapping")
"""Config fields that announce them: such a model keeps its own attention."""


def check_plain(asked: Mapping[str, object], setting: str, instead: str) -> None:
    """Raise StageError for a layer that asks for what our attention does not support."""
    for name in UNSUPPORTED:
        if asked.get(name) is not None:
            raise StageError(
                f"{setting}: this model's attention has {name}, which cannot be computed that"
                f" way here; set {instead}"
            )


@contextmanager
def attending(model: LanguageModel, batches: Sequence[MicroBatch]) -> Iterator[None]:
    """Have a model attend like this inside the block if its micro-batches are packed.

    Outside of it the same model may sample. Models of other attention keep their own.
    """
    if not batches or batches[0].attention_mask is not None or not _can_attend(model.config):
        yield
        return
    before = model.config._attn_implementation
    AttentionInterface.register(PREFIX + before, partial(attend, weigh=WEIGH[before]))
    model.set_attn_implementation(PREFIX + before)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _can_attend(config: PretrainedConfig) -> bool:
    is_plain = not any(getattr(config, name, None) for name in IN_CONFIG)
    return is_plain and config._attn_implementation in WEIGH


def is_attending(model: LanguageModel) -> bool:
    """Return whether a model attends like this now, and wants `blocks`."""
    return str(model.config._attn_implementation).startswith(PREFIX)
