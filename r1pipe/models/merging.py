"""Models merged weight by weight: w = sum_i a_i w_i, with a_i >= 0 and sum_i a_i = 1.

Averages of models that were fine-tuned from one base ("Model soups", arXiv:2203.05482). Weights are
read tensor by tensor; the most that is held is one file of the first model and one tensor of each.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from r1pipe.errors import StageError
from r1pipe.keys import JsonObject
from r1pipe.models.finite import check_finite
from r1pipe.models.policy import load_tokenizer
from r1pipe.models.stored_adapters import is_apart

WEIGHT_FILES = "*.safetensors"
SAID = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")
"""Keys of a config.json that decide no shape and no result; a dtype is seen in the tensors."""
TOKENIZER = ("model", "added_tokens", "normalizer", "pre_tokenizer", "post_processor")
"""What of a tokenizer.json decides the ids of a text."""


class Weights:
    """The tensors of a model's safetensors files, read one by one."""

    def __init__(self, label: str, folder: Path, stack: ExitStack) -> None:
        self.label = label
        self._files = {
            path.name: stack.enter_context(safe_open(path, framework="pt"))
            for path in sorted(folder.glob(WEIGHT_FILES))
        }
        if not self._files:
            raise StageError(f"models.{label}: holds no safetensors; import it with import-model")
        self._place = {name: file for file in self._files.values() for name in file.keys()}  # noqa: SIM118

    def __contains__(self, name: object) -> bool:
        return name in self._place

    def names(self) -> list[str]:
        """Return the names of all tensors, sorted."""
        return sorted(self._place)

    def files(self) -> Mapping[str, list[str]]:
        """Return file -> the names of its tensors."""
        return {name: sorted(file.keys()) for name, file in self._files.items()}

    def form(self, name: str) -> str:
        """Return the dtype and the shape of a tensor, without reading it."""
        found = self._place[name].get_slice(name)
        return f"{found.get_dtype()} {list(found.get_shape())}"

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._place[name].get_tensor(name)
        return tensor


def merge_models(
    folders: Mapping[str, Path], weights: Mapping[str, float], target: Path
) -> dict[str, float]:
    """Write the weighted mean of models as a model; return the shares, which sum to 1.

    Without `weights` all count the same. Configuration, tokenizer and template are those of the
    first by label. Raises StageError, which names the first thing in which two models differ.
    """
    labels = sorted(folders)
    shares = _shares(labels, weights)
    _check_alike({label: folders[label] for label in labels})
    with ExitStack() as stack:
        opened = [Weights(label, folders[label], stack) for label in labels]
        _check_tensors(opened)
        first = folders[labels[0]]
        for path in sorted(first.iterdir()):
            if path.is_file() and not path.match(WEIGHT_FILES):
                shutil.copyfile(path, target / path.name)
        for file, names in opened[0].files().items():
            merged = {name: _mean(name, opened, shares) for name in names}
            check_finite(merged.items(), "merged weights")
            save_file(merged, target / file, metadata={"format": "pt"})
    return shares


def _shares(labels: list[str], weights: Mapping[str, float]) -> dict[str, float]:
    """Return the weights divided by their sum."""
    if len(labels) < 2:
        raise StageError(f"inputs.models has only {', '.join(labels)}; name two models or more")
    if weights and (missing := [label for label in labels if label not in weights]):
        raise StageError(f"params.weights has none for {', '.join(missing)}; give every model one")
    total = sum(weights[label] for label in labels) if weights else float(len(labels))
    return {label: (weights[label] if weights else 1.0) / total for label in labels}


def _mean(name: str, opened: list[Weights], shares: Mapping[str, float]) -> Tensor:
    """Return the mean of a tensor, summed in float32 (or float64), in its own dtype."""
    first = opened[0][name]
    if not first.is_floating_point():
        for other in opened[1:]:
            if not torch.equal(first, other[name]):
                raise _differs(opened[0].label, other.label, f"tensor {name}, which has no mean")
        return first
    wide = torch.float64 if first.dtype == torch.float64 else torch.float32
    total = torch.zeros_like(first, dtype=wide)
    for weights in opened:
        total.add_(weights[name].to(wide), alpha=shares[weights.label])
    return total.to(first.dtype)


# ---- what must be alike --------------------------------------------------------------------------


def _check_alike(folders: Mapping[str, Path]) -> None:
    """Raise StageError for models of different configurations, tokenizers or chat templates."""
    for label, folder in folders.items():
        if is_apart(folder):
            raise StageError(
                f"models.{label}: has an adapter beside its weights; train it with"
                " params.adapter.merge: true, so that it is in them"
            )
    (first, kept), *others = folders.items()
    for label, folder in others:
        for what, one, two in (
            ("config.json", _config(kept), _config(folder)),
            ("tokenizer.json", _tokenizer(kept), _tokenizer(folder)),
            ("chat template", _template(kept), _template(folder)),
        ):
            different = [key for key in sorted({*one, *two}) if one.get(key) != two.get(key)]
            if different:
                raise _differs(first, label, f"{what}: {different[0]}")


def _check_tensors(opened: list[Weights]) -> None:
    first = opened[0]
    for other in opened[1:]:
        for name in sorted({*first.names(), *other.names()}):
            for one, two in ((first, other), (other, first)):
                if name not in one:
                    raise _differs(
                        first.label, other.label, f"tensor {name}, which only {two.label} has"
                    )
            if first.form(name) != other.form(name):
                forms = f"{first.form(name)} and {other.form(name)}"
                raise _differs(first.label, other.label, f"tensor {name}: {forms}")


def _differs(one: str, two: str, where: str) -> StageError:
    return StageError(
        f"models.{one} and models.{two} differ in {where}; merge models that were trained from one"
        " base, in one dtype"
    )


def _config(folder: Path) -> JsonObject:
    found: JsonObject = json.loads((folder / "config.json").read_text("utf-8"))
    return {key: value for key, value in found.items() if key not in SAID}


def _tokenizer(folder: Path) -> JsonObject:
    path = folder / "tokenizer.json"
    found: JsonObject = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return {key: found.get(key) for key in TOKENIZER}


def _template(folder: Path) -> JsonObject:
    return {"text": load_tokenizer(folder).chat_template}
