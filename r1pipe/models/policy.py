"""Policies: tiny Qwen3 models from scratch, and loading and saving Hugging Face directories."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers import logging as transformers_logging

from r1pipe.models.finite import check_finite
from r1pipe.models.interfaces import LanguageModel, Tokenizer

transformers_logging.disable_progress_bar()


def new_model(  # noqa: PLR0913 - sizes of one model
    tokenizer: Tokenizer,
    *,
    hidden_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    intermediate_size: int,
    max_positions: int,
    init_std: float,
    seed: int,
) -> LanguageModel:
    """Return a randomly initialised Qwen3 (tied embeddings, float32) that fits the tokenizer."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_kv_heads,
        head_dim=hidden_size // num_heads,
        max_position_embeddings=max_positions,
        tie_word_embeddings=True,
        initializer_range=init_std,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: LanguageModel = Qwen3ForCausalLM(config)
    return model.float()


def load_tokenizer(path: Path) -> Tokenizer:
    """Load the tokenizer of a model or tokenizer directory (never from the network)."""
    tokenizer: Tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    return tokenizer


def load_model(
    path: Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    kind: Any = AutoModelForCausalLM,
    **changes: Any,
) -> LanguageModel:
    """Load a model from a directory, with PyTorch's attention kernels.

    `kind` is the class of transformers that reads it; `changes` go into its config.
    """
    model: LanguageModel = kind.from_pretrained(
        path, dtype=dtype, attn_implementation="sdpa", local_files_only=True, **changes
    )
    return model.to(device)


def freeze(model: LanguageModel) -> LanguageModel:
    """Return the model in evaluation mode and without gradients (a reference)."""
    model.requires_grad_(False)
    return model.eval()


def save_model(
    model: LanguageModel,
    tokenizer: Tokenizer,
    path: Path,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write a directory that transformers and vllm load as it is: weights, tokenizer, chat
    template and generation config (temperature 1, every end-of-sequence id).

    `weights`, by the parameter's name, replace those of a model that is sharded. Raises StageError
    if any of them is not finite.
    """
    own = model.named_parameters() if weights is None else weights.items()
    check_finite(own, f"{path}: weights")
    generation: dict[str, object] = {
        "do_sample": True,
        "temperature": 1.0,
        "eos_token_id": end_ids(model, tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
    }
    model.generation_config = GenerationConfig(**generation)
    model.save_pretrained(path, safe_serialization=True, state_dict=weights)
    tokenizer.save_pretrained(path)


def end_ids(model: LanguageModel, tokenizer: Tokenizer) -> list[int]:
    """Return every token id that ends a completion: the tokenizer's and the generation config's."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    ids = {tokenizer.eos_token_id, *listed} - {None}
    return sorted(int(i) for i in ids)


def stored_end_ids(folder: Path, tokenizer: Tokenizer) -> list[int]:
    """Return every token id that ends a completion, without loading the model."""
    if (folder / "generation_config.json").exists():
        config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    else:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    return end_ids(SimpleNamespace(generation_config=config), tokenizer)
