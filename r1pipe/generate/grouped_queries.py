"""Attention of query heads that share keys, without a copy of the keys for each of them.

# B rows of a batch, A query heads, K key-value heads (fewer than A), Q new tokens, T all tokens
On a GPU transformers repeats keys and values wherever there is a mask, since PyTorch's fused kernel
for such heads takes none; it does so on a CPU too, whose kernel does take one. There the copies
cost several times what the attention itself does, for every token that is sampled.

It takes the place of `sdpa` in transformers' table, for a thread while it samples. A name of its
own would not do: some models leave out parts of their attention under any other name, or have an
`sdpa` of theirs, and whoever trains the same model between two completions looks at the name.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward


class _Thread(threading.local):
    is_sampling = False


_thread = _Thread()


def attend(
    module: Any,
    query: Tensor,  # [B, A, Q, D]
    key: Tensor,  # [B, K, T, D]
    value: Tensor,  # [B, K, T, D]
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    **asked: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' `sdpa` does, to the last bit.  -> [B, Q, A, D]"""
    is_grouped = _thread.is_sampling and key.device.type == "cpu" and key.shape[1] < query.shape[1]
    if not is_grouped or attention_mask is None or asked.get("position_bias") is not None:
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **asked
        )
        return found
    attended = scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling,
        enable_gqa=True,
    )  # fmt: skip
    return attended.transpose(1, 2).contiguous(), None


@contextmanager
def grouped() -> Iterator[None]:
    """Have this thread attend like this inside the block, on a CPU, where heads share keys."""
    AttentionInterface.register("sdpa", attend)
    before, _thread.is_sampling = _thread.is_sampling, True
    try:
        yield
    finally:
        _thread.is_sampling = before
