"""Adapters that are kept apart from the weights they change: `params.adapter.merge: false`.

# A [R, in], B [out, R] of rank R; a layer computes W x + alpha / R * B A x
Such a folder holds the base's own files, and beside them the adapter in peft's form
(`adapter_config.json`, `adapter_model.safetensors`); transformers loads both as they are. Here
whatever reads the folder adds the adapter to the weights.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from r1pipe.errors import StageError
from r1pipe.models.finite import check_finite
from r1pipe.models.interfaces import LanguageModel
from r1pipe.settings import Adapter

PART = ".lora_"
"""In the names of an adapter's own weights, as peft gives them."""
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""Of names in peft's files."""
SPECIAL = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save")
"""Settings of peft under which a layer computes something else."""


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter that is kept beside its base in a folder."""

    scale: float
    parts: dict[str, tuple[Tensor, Tensor]]
    """Name of a weight -> A and B."""

    def added_to(self, name: str, weight: Tensor) -> Tensor:
        """Return a weight with what the adapter adds to it, in the weight's own dtype."""
        if name not in self.parts:
            return weight
        a, b = (part.to(weight.device) for part in self.parts[name])
        return (weight.float() + b @ a * self.scale).to(weight.dtype)


def is_apart(folder: Path) -> bool:
    """Return whether a model's folder keeps an adapter beside the weights."""
    return (folder / CONFIG).exists()


def stored_adapter(folder: Path) -> StoredAdapter | None:
    """Return the adapter beside a folder's base; None if there is none.

    Raises StageError if it is of another kind than those that `save_beside` writes.
    """
    if not is_apart(folder):
        return None
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    found = load_file(folder / WEIGHTS)
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in found.items():
        layer, _, part = name.removeprefix(PREFIX).partition(PART)
        parts.setdefault(f"{layer}.weight", {})[part] = tensor
    is_plain = config.get("peft_type") == "LORA" and not any(map(config.get, SPECIAL))
    if not is_plain or any(part.keys() != {"A.weight", "B.weight"} for part in parts.values()):
        raise StageError(f"{folder / CONFIG}: only plain LoRA is read; merge it with peft first")
    pairs = {name: (part["A.weight"], part["B.weight"]) for name, part in parts.items()}
    return StoredAdapter(config["lora_alpha"] / config["r"], pairs)


@contextmanager
def base_folder(folder: Path) -> Iterator[Path]:
    """Give a folder without the adapter, which transformers would put in as layers of their own."""
    if not is_apart(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="r1pipe-base-") as base:
        for path in folder.iterdir():
            if path.name not in (CONFIG, WEIGHTS):
                (Path(base) / path.name).symlink_to(path.resolve())
        yield Path(base)


@torch.no_grad()
def merge_stored(model: LanguageModel, folder: Path) -> None:
    """Add to a model, the base of a folder, the adapter that is kept there, if there is one.

    Raises StageError if the model lacks a weight that it changes.
    """
    adapter = stored_adapter(folder)
    if adapter is None:
        return
    model.name_or_path = model.config.name_or_path = str(folder)
    weights = dict(model.named_parameters())
    if missing := sorted(adapter.parts.keys() - weights.keys()):
        raise StageError(f"{folder / WEIGHTS}: the model has no {missing[0]}")
    for name in adapter.parts:
        weights[name].data = adapter.added_to(name, weights[name].data)


def save_beside(model: LanguageModel, adapter: Adapter, base: Path, folder: Path) -> None:
    """Write a base's own files, as links where the file system has them, and the adapter."""
    for path in sorted(base.iterdir()):
        target = folder / path.name
        with suppress(OSError):  # another file system, or links are not allowed
            os.link(path, target)
        if not target.exists():
            shutil.copyfile(path, target)
    own = {n: p.detach().cpu() for n, p in model.named_parameters() if PART in n}
    check_finite(own.items(), f"{folder}: weights")
    tensors = {PREFIX + n.replace(".default.", "."): t.contiguous() for n, t in own.items()}
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    layers = sorted({name.partition(PART)[0] for name in own})
    config = {
        "base_model_name_or_path": None,  # it is in the same folder
        "bias": "none",
        "lora_alpha": adapter.alpha,
        "peft_type": "LORA",
        "r": adapter.rank,
        "target_modules": layers,
        "task_type": "CAUSAL_LM",
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def write_merged(folder: Path, target: Path) -> None:
    """Write a folder's model into an empty one, with its adapter in the weights.

    Raises StageError if the base's files do not hold the weights that the adapter changes.
    """
    adapter = stored_adapter(folder)
    assert adapter is not None, "the folder has an adapter"
    missing = set(adapter.parts)
    for path in sorted(folder.iterdir()):
        if path.name in (CONFIG, WEIGHTS):
            continue
        if path.suffix != ".safetensors":
            shutil.copyfile(path, target / path.name)
            continue
        weights = {name: adapter.added_to(name, w) for name, w in load_file(path).items()}
        save_file(weights, target / path.name, {"format": "pt"})
        missing -= weights.keys()
    if missing:
        raise StageError(
            f"{folder}: its files do not hold {min(missing)}, which the adapter changes; train it"
            " with params.adapter.merge: true"
        )


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a folder for readers that know no adapters: itself, or one that is gone afterwards."""
    if not is_apart(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="r1pipe-merged-") as merged:
        write_merged(folder, Path(merged))
        yield Path(merged)
