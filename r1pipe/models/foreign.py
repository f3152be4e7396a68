"""Models from outside: what is read of a stranger's folder, and what may be made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from r1pipe import chat
from r1pipe.errors import StageError
from r1pipe.models.interfaces import LanguageModel, Tokenizer
from r1pipe.models.policy import load_model, load_tokenizer, quiet_loading
from r1pipe.models.tokenizer import CONTROL, TAGS

SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "no_repeat_ngram_size",
)
"""Fields of `generation_config.json` that change what is drawn."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Foreign:
    """A model from outside with its tokenizer."""

    model: LanguageModel
    tokenizer: Tokenizer
    dropped_ends: list[int]
    """End ids of its configuration that its vocabulary does not have."""
    sampling: dict[str, float]
    """How it asks to be sampled (`generation_config.json`), which what is written does not say."""


def load_foreign(path: Path, dtype: str = "keep") -> Foreign:
    """Load a folder of safetensors, or of one GGUF file, in its own dtype or another.

    Nothing pickled is read and no code of the folder runs. Raises StageError, in one line, for a
    folder that is no such model, or whose files lack weights.
    """
    options: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    file = _gguf_of(path)
    gguf = {"gguf_file": file} if file else {}
    tokenizer = load_tokenizer(path, **gguf)
    with quiet_loading():  # what they say is raised below, in a line
        model, info = load_model(path, dtype=DTYPES.get(dtype, "auto"), **options, **gguf)
    if other := sorted(info["mismatched_keys"]):
        name, found, wanted = other[0]
        raise StageError(
            f"{path}: {len(other)} weights have another shape than config.json says, such as"
            f" {name}: {tuple(found)} in its files, {tuple(wanted)} by config.json. Give the"
            " config.json that the weights were saved with"
        )
    if missing := sorted(info["missing_keys"]):
        raise StageError(
            f"{path}: {len(missing)} weights of {type(model).__name__} are not in its files, such"
            f" as {missing[0]}; they would be random. Give the folder of a whole causal model"
        )
    if file:
        _check_shapes(model, path / file)
    _unquantized(model, path, is_gguf=file is not None)
    ends = _without_unknown_ends(model, len(tokenizer))
    return Foreign(model, tokenizer, ends, _sampling_of(model))


def _sampling_of(model: Any) -> dict[str, float]:
    """Return the numbers by which a model's own configuration would change what is drawn."""
    told = model.generation_config.to_diff_dict() if model.generation_config else {}
    return {name: told[name] for name in SAMPLING if isinstance(told.get(name), int | float)}


def _gguf_of(path: Path) -> str | None:
    """Return the name of a folder's GGUF file if its weights are in one."""
    found = sorted(path.glob("*.gguf"))
    if not found or any(path.glob("*.safetensors")):
        return None
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise StageError(f"{path} has several GGUF files ({names}); leave one in the folder")
    return found[0].name


def _check_shapes(model: Any, file: Path) -> None:
    """Raise StageError for weights of other shapes than the configuration read beside them says.

    transformers takes weights from a GGUF file as they are, but not the whole configuration: not
    the size of Qwen 3's heads, which it takes to be 128.
    """
    with torch.device("meta"):
        expected = dict(type(model)(model.config).named_parameters())
    for name, weight in model.named_parameters():
        if weight.shape != expected[name].shape:
            raise StageError(
                f"{file}: {name} is {tuple(weight.shape)}, and {tuple(expected[name].shape)} by the"
                " configuration that transformers reads from it; give the model as safetensors"
            )


def _unquantized(model: Any, path: Path, is_gguf: bool) -> None:
    """Take away what says that weights from a GGUF are quantized: transformers has made them whole,
    but refuses to save such a model. Other quantized models are refused."""
    quantization = getattr(model.config, "quantization_config", None)
    if quantization is None:
        return
    if not is_gguf:
        method = getattr(quantization, "quant_method", "an unknown way")
        raise StageError(
            f"{path}: its weights are quantized ({getattr(method, 'value', method)}) and cannot be"
            " trained; give the model before it was quantized"
        )
    del model.config.quantization_config
    for name in ("hf_quantizer", "quantization_method"):
        if hasattr(model, name):
            delattr(model, name)
    model.is_quantized = False


def _without_unknown_ends(model: Any, num_tokens: int) -> list[int]:
    """Drop end ids that no token has from a model's configurations, and return them."""
    dropped = set[int]()
    for config in (model.generation_config, model.config):
        ends = getattr(config, "eos_token_id", None)
        if ends is None:
            continue
        listed = ends if isinstance(ends, list) else [ends]
        known = [end for end in listed if 0 <= end < num_tokens]
        dropped |= {int(end) for end in listed} - set(known)
        config.eos_token_id = known if isinstance(ends, list) else (known or [None])[0]
    return sorted(dropped)


def make_tags_whole(model: LanguageModel, tokenizer: Tokenizer) -> list[str]:
    """Make the recipe's tags whole tokens, install its chat template; return the new tokens.

    A new token begins as the mean of the tokens that its text had before; the new end begins as the
    model's own end. From the mean of all rows instead, tags are as unlikely after some training as
    any token (p below 1e-5), and nothing ever ends.
    """
    from_text = {token: _pieces(tokenizer, token) for token in (*TAGS, *CONTROL, chat.SYSTEM)}
    from_text[chat.END] = [tokenizer.eos_token_id]
    starts_with_bos = _adds_bos(tokenizer)
    num_known = len(tokenizer)
    tokenizer.add_special_tokens(
        {
            "eos_token": chat.END,
            "pad_token": chat.PAD,
            "additional_special_tokens": [chat.SYSTEM, chat.USER, chat.ASSISTANT],
        }
    )
    tokenizer.add_tokens(list(TAGS))
    tokenizer.chat_template = ("{{ bos_token }}" if starts_with_bos else "") + chat.CHAT_TEMPLATE
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        # its own mean draws from torch's global generator: another result in another process
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    places = {token: tokenizer.convert_tokens_to_ids(token) for token in from_text}
    new = {token: place for token, place in places.items() if place >= num_known}
    for table in (model.get_input_embeddings(), model.get_output_embeddings()):
        for values in (table.weight.data, getattr(table, "bias", None)):
            if values is not None:
                _set_rows(values.data, {place: from_text[t] for t, place in new.items()})
    model.config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = tokenizer.pad_token_id
    return sorted(new, key=lambda token: new[token])


def _pieces(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _adds_bos(tokenizer: Tokenizer) -> bool:
    """Return whether plain text is encoded with a beginning-of-sequence token."""
    first = tokenizer("a")["input_ids"][:1]
    return tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id]


def _set_rows(table: Tensor, sources: Mapping[int, list[int]]) -> None:
    """Set rows to the mean of others, in float32."""
    means = {row: table[pieces].float().mean(dim=0) for row, pieces in sources.items()}
    for row, mean in means.items():
        table[row] = mean.to(table.dtype)
