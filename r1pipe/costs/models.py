"""Sizes of models, from a config.json, from a size in words, or from an architecture's fields.

Counts are exact for Qwen2, Qwen3 and Llama, and for DeepSeek-V3's latent attention and experts but
for its router; `tests/test_costs_models.py` holds them against published numbers.
"""

from __future__ import annotations

import re
from dataclasses import replace

from r1pipe.costs.fields import Sizes
from r1pipe.costs.work import ModelInfo
from r1pipe.keys import JsonObject

SIZE = re.compile(
    r"(?<![\w.])(\d+(?:\.\d+)?)([BM])(?:-A(\d+(?:\.\d+)?)([BM]))?(?![\w.]|-A\d)", re.IGNORECASE
)
UNITS = {"B": 10**9, "M": 10**6}

QWEN_SHAPES = (
    # hidden, layers, heads, kv heads, intermediate, vocabulary, tied: Qwen2.5's config.json files
    (896, 24, 14, 2, 4864, 151936, True),
    (1536, 28, 12, 2, 8960, 151936, True),
    (2048, 36, 16, 2, 11008, 151936, True),
    (3584, 28, 28, 4, 18944, 152064, False),
    (5120, 48, 40, 8, 13824, 152064, False),
    (5120, 64, 40, 8, 27648, 152064, False),
    (8192, 80, 64, 8, 29568, 152064, False),
)
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    "hidden_size": 7168,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "vocab_size": 129280,
    "tie_word_embeddings": False,
}
"""The paper's base (its config.json), taken for anything as large."""
LARGE = 200 * 10**9


def model_from_config(config: JsonObject) -> ModelInfo:
    """Return the sizes that a Hugging Face config.json states; KeyError names what it lacks."""
    hidden, layers = int(config["hidden_size"]), int(config["num_hidden_layers"])
    vocab, width = int(config["vocab_size"]), int(config["intermediate_size"])
    attention, attention_size, kv_values = _attention(config)
    stored, active = _feed_forward(config)
    norms = layers * 2 * hidden + hidden
    head = vocab * hidden
    is_tied = bool(config.get("tie_word_embeddings", False))
    return ModelInfo(
        hidden_size=hidden,
        num_layers=layers,
        intermediate_size=width,
        vocab_size=vocab,
        kv_values=kv_values,
        attention_size=attention_size,
        num_parameters=layers * attention + stored + norms + head * (1 if is_tied else 2),
        active_parameters=layers * attention + active + norms + head,
        num_heads=int(config["num_attention_heads"]),
        num_kv_heads=_kv_heads(config),
    )


def new_model_info(architecture: Sizes, vocab_size: int) -> ModelInfo:
    """Return the sizes of a Qwen3 from scratch; the fields are those of `stages/pretrain.py`."""
    return model_from_config(
        {
            "model_type": "qwen3",
            "hidden_size": architecture.hidden_size,
            "num_hidden_layers": architecture.num_layers,
            "num_attention_heads": architecture.num_heads,
            "num_key_value_heads": architecture.num_kv_heads,
            "intermediate_size": architecture.intermediate_size,
            "vocab_size": vocab_size,
            "tie_word_embeddings": True,
        }
    )


def model_of_size(text: str) -> ModelInfo | None:
    """Return typical sizes for the size that a name states ('Qwen2.5-1.5B', '671B-A37B'), or None.

    The shape is that of the nearest Qwen2.5 (DeepSeek-V3 beyond 200B); the counts are as stated.
    """
    found = SIZE.findall(text)
    if not found:
        return None
    number, unit, active_number, active_unit = found[-1]
    stored = round(float(number) * UNITS[unit.upper()])
    active = round(float(active_number) * UNITS[active_unit.upper()]) if active_number else stored
    if stored >= LARGE:
        shape = model_from_config(DEEPSEEK_V3)
    else:
        near = (model_from_config(_qwen(*sizes)) for sizes in QWEN_SHAPES)
        shape = min(near, key=lambda model: _distance(model.num_parameters, stored))
    return replace(
        shape,
        num_parameters=stored,
        active_parameters=active,
        num_heads=None,
        num_kv_heads=None,
    )


def forward_flops(model: ModelInfo, context_tokens: float) -> float:
    """Return the operations of one token's forward pass with so many tokens before it."""
    attention = 4 * model.num_layers * model.attention_size * context_tokens
    return 2 * model.active_parameters + attention


def _kv_heads(config: JsonObject) -> int:
    """Return the heads of keys and values; latent attention has one for all devices."""
    if config.get("kv_lora_rank"):
        return 1
    return int(config.get("num_key_value_heads") or config["num_attention_heads"])


def _attention(config: JsonObject) -> tuple[int, int, int]:
    """Return a layer's attention parameters, its size, and the values cached per token."""
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    if config.get("kv_lora_rank"):
        return _latent_attention(config, hidden, heads)
    size = int(config.get("head_dim") or hidden // heads)
    kv_heads = _kv_heads(config)
    weights = 2 * hidden * heads * size + 2 * hidden * kv_heads * size
    kind = config.get("model_type", "")
    if kind.startswith("qwen2") or config.get("attention_bias"):
        weights += (heads + 2 * kv_heads) * size
    if kind.startswith("qwen3"):
        weights += 2 * size  # norms of queries and keys
    return weights, heads * size, 2 * kv_heads * size


def _latent_attention(config: JsonObject, hidden: int, heads: int) -> tuple[int, int, int]:
    """Count DeepSeek's attention (arXiv:2412.19437, section 2.1.1)."""
    rank, rope = int(config["kv_lora_rank"]), int(config["qk_rope_head_dim"])
    nope, value = int(config["qk_nope_head_dim"]), int(config["v_head_dim"])
    query_rank = config.get("q_lora_rank")
    if query_rank:
        query = hidden * query_rank + query_rank + query_rank * heads * (nope + rope)
    else:
        query = hidden * heads * (nope + rope)
    keys = hidden * (rank + rope) + rank + rank * heads * (nope + value)
    return query + keys + heads * value * hidden, heads * (nope + rope), rank + rope


def _feed_forward(config: JsonObject) -> tuple[int, int]:
    """Return all layers' feed-forward parameters, and those that one token uses."""
    hidden, layers = int(config["hidden_size"]), int(config["num_hidden_layers"])
    dense = 3 * hidden * int(config["intermediate_size"])
    experts = config.get("n_routed_experts") or config.get("num_experts")
    if not experts:
        return layers * dense, layers * dense
    num_dense = int(config.get("first_k_dense_replace", 0))
    expert = 3 * hidden * int(config["moe_intermediate_size"])
    shared, router = int(config.get("n_shared_experts") or 0), hidden * int(experts)
    used = int(config["num_experts_per_tok"])
    sparse = layers - num_dense
    return (
        num_dense * dense + sparse * ((int(experts) + shared) * expert + router),
        num_dense * dense + sparse * ((used + shared) * expert + router),
    )


def _qwen(
    hidden: int, layers: int, heads: int, kv_heads: int, width: int, vocab: int, is_tied: bool
) -> JsonObject:
    return {
        "model_type": "qwen2",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": width,
        "vocab_size": vocab,
        "tie_word_embeddings": is_tied,
    }


def _distance(one: int, other: int) -> float:
    return max(one, other) / max(1, min(one, other))
