"""Attention of query heads that share keys, without a copy of the keys for each of them.

# B rows of a batch, A query heads, K key-value heads (fewer than A), Q new tokens, T all tokens
On a GPU transformers repeats keys and values wherever there is a mask, since PyTorch's fused kernel
for such heads takes none; it does so on a CPU too, whose kernel does take one. There the copies
cost several times what the attention itself does, for every token that is sampled.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from r1pipe.models.interfaces import LanguageModel

GROUPED = "r1pipe-grouped"
"""Name of this attention among those of transformers."""


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
    if attention_mask is None or asked.get("position_bias") is not None:
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
def grouped(model: LanguageModel) -> Iterator[None]:
    """Have a model on a CPU attend like this inside the block, if its heads share keys."""
    if not _shares_keys(model) or model.device.type != "cpu":
        yield
        return
    AttentionInterface.register(GROUPED, attend)
    AttentionMaskInterface.register(GROUPED, sdpa_mask)
    model.set_attn_implementation(GROUPED)
    try:
        yield
    finally:
        model.set_attn_implementation("sdpa")


def _shares_keys(model: LanguageModel) -> bool:
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    shared = getattr(config, "num_key_value_heads", None)
    return config._attn_implementation == "sdpa" and bool(shared) and shared != heads
