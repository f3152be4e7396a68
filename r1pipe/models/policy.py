"""Policies: tiny Qwen3 models from scratch, and loading and saving Hugging Face directories."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

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

from r1pipe.errors import StageError
from r1pipe.models.finite import check_finite
from r1pipe.models.interfaces import LanguageModel, Tokenizer
from r1pipe.models.refusals import refused_in_a_line
from r1pipe.models.stored_adapters import base_folder, merge_stored

transformers_logging.disable_progress_bar()

OFFLINE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""Of everything that is loaded: nothing from the network, and no code of the folder. Without the
second, transformers asks whoever runs it, and runs the code for a `y`."""

FORM = "5.19.0"
"""The transformers that the files of a model name: the one whose form of files they have. Newer
ones write the same form, and a name of their own would give equal models other bytes."""


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


def load_tokenizer(path: Path, **options: Any) -> Tokenizer:
    """Load the tokenizer of a model or tokenizer directory (never from the network).

    An end-of-sequence token that only the model's configuration names is set. Padding, which masks
    leave out by length, takes a token that is there. Raises StageError without any end.
    """
    with refused_in_a_line(path):
        tokenizer: Any = AutoTokenizer.from_pretrained(path, **OFFLINE, **options)
    if tokenizer.eos_token_id is None:
        tokenizer.eos_token = _configured_end(path, tokenizer)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = _padding(tokenizer)
    found: Tokenizer = tokenizer
    return found


def _configured_end(path: Path, tokenizer: Any) -> str:
    """Return the end-of-sequence token that a folder's configuration names."""
    for name in ("generation_config.json", "config.json"):
        file = path / name
        value = json.loads(file.read_text("utf-8")).get("eos_token_id") if file.exists() else None
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and 0 <= number < len(tokenizer):
                return str(tokenizer.convert_ids_to_tokens(number))
    raise StageError(
        f"{path}: the tokenizer has no end-of-sequence token, so nothing would ever end; name one"
        " as eos_token in its tokenizer_config.json, or import the model with params.tags: own"
    )


def _padding(tokenizer: Any) -> str:
    """Return a token to pad with: one that is made for it, else the end of a sequence."""
    added = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    return next((token for token in added if "pad" in token.lower()), str(tokenizer.eos_token))


def load_model(
    path: Path,
    *,
    dtype: torch.dtype | Literal["auto"] = torch.float32,
    device: str = "cpu",
    kind: Any = AutoModelForCausalLM,
    **changes: Any,
) -> Any:
    """Load a model from a directory, with PyTorch's attention kernels if its family has them.

    `kind` is the class of transformers that reads it; `changes` go into its config. An adapter
    beside it is added to the weights.
    """
    options = {"dtype": dtype, **OFFLINE, **changes}
    if "gguf_file" not in options:
        options["use_safetensors"] = True  # nothing pickled
    with refused_in_a_line(path), base_folder(path) as base:
        found = with_attention(partial(kind.from_pretrained, base, **options))
        merge_stored(found[0] if isinstance(found, tuple) else found, path)
    return found if isinstance(found, tuple) else found.to(device)


def with_attention(make: Callable[..., Any]) -> Any:
    """Return what `make` gives for an `attn_implementation`: a model, or one and more.

    It has PyTorch's fused attention, or its own if its family has no other or caps the scores, as
    Gemma 2's does: the fused one has no cap, and transformers 5.19 calls it all the same.
    """
    try:
        found = make(attn_implementation="sdpa")
    except ValueError as error:
        if "scaled_dot_product_attention" not in str(error):
            raise
        return make(attn_implementation="eager")
    model = found[0] if isinstance(found, tuple) else found
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None:
        model.set_attn_implementation("eager")
    return found


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers from its tables of weights that are new, missing or of another shape."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def without_randomness(model: LanguageModel) -> LanguageModel:
    """Return the model with every dropout and router jitter at 0, in its config too.

    In the trainer they would make other probabilities than the sampler's, from a random state that
    no seed of a stage decides.
    """
    configs = {id(c): c for c in (model.config, model.config.get_text_config())}
    for holder in (*configs.values(), *model.modules()):
        is_dropout = isinstance(holder, torch.nn.Dropout)
        for name, value in list(vars(holder).items()):
            is_rate = "drop" in name or "jitter" in name or (is_dropout and name == "p")
            if is_rate and isinstance(value, float) and value > 0:
                setattr(holder, name, 0.0)
    return model


def persistent_buffers(model: LanguageModel) -> dict[str, torch.Tensor]:
    """Return what a model's files hold beside its parameters, by name: biases of routers."""
    stored = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers() if name in stored}


def in_dtype(
    model: LanguageModel, weights: Mapping[str, torch.Tensor], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Return a model's weights, by name, in a dtype; its buffers stay as they are."""
    kept = persistent_buffers(model)
    return {name: w if name in kept else w.to(dtype) for name, w in weights.items()}


def freeze(model: LanguageModel) -> LanguageModel:
    """Return the model in evaluation mode and without gradients (a reference)."""
    model.requires_grad_(False)
    return model.eval()


def save_model(
    model: LanguageModel,
    tokenizer: Tokenizer,
    path: Path,
    weights: Mapping[str, torch.Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a directory that transformers and vllm load as it is: weights, tokenizer, chat
    template and generation config (temperature 1, every end-of-sequence id).

    `weights`, by name, replace those of a model that is sharded. Floating ones are written in
    `dtype` if it is given; buffers stay in their own. Raises StageError if any is not finite.
    """
    if weights is not None and dtype is not None:
        weights = in_dtype(model, weights, dtype)
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
    say_form(path)
    if weights is not None and dtype is not None and dtype is not model.dtype:
        say_dtype(path, dtype)


def say_form(folder: Path) -> None:
    """Have a model's configuration name `FORM` in place of the transformers that wrote it."""
    for path in (folder / "config.json", folder / "generation_config.json"):
        if path.exists():
            said = re.compile(r'^(  "transformers_version": )"[^"]*"', re.MULTILINE)
            path.write_text(said.sub(rf'\1"{FORM}"', path.read_text("utf-8")), "utf-8")


def say_dtype(folder: Path, dtype: torch.dtype) -> None:
    """Correct the dtype in a config.json, which transformers took from the model in memory."""
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8"))
    config["dtype"] = str(dtype).removeprefix("torch.")
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def end_ids(model: LanguageModel, tokenizer: Tokenizer) -> list[int]:
    """Return every token id that ends a completion: the tokenizer's and the generation config's.

    Those that the vocabulary does not have are left out.
    """
    configured = getattr(model.generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    ids = {int(i) for i in (tokenizer.eos_token_id, *listed) if i is not None}
    return sorted(i for i in ids if 0 <= i < len(tokenizer))


def stored_end_ids(folder: Path, tokenizer: Tokenizer) -> list[int]:
    """Return every token id that ends a completion, without loading the model."""
    with refused_in_a_line(folder):
        if (folder / "generation_config.json").exists():
            config = GenerationConfig.from_pretrained(folder, local_files_only=True)
        else:
            config = AutoConfig.from_pretrained(folder, **OFFLINE)
    return end_ids(SimpleNamespace(generation_config=config), tokenizer)
