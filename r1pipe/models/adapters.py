"""Low-rank adapters (LoRA, arXiv:2106.09685): few weights are trained beside a frozen model.

# A [R, in], B [out, R] of rank R; a layer computes W x + alpha / R * B A x
peft puts them into the model. Whoever takes the model's weights, a sampler or the stage's output,
is given W + alpha / R * B A under the model's own names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from r1pipe.errors import StageError
from r1pipe.models.interfaces import LanguageModel
from r1pipe.models.policy import persistent_buffers
from r1pipe.models.precision import cast_weights
from r1pipe.models.quantized import dequantized, is_quantized
from r1pipe.models.stored_adapters import PART, is_apart
from r1pipe.settings import Adapter, Precision

BASE = ".base_layer."
"""In the names that peft gives: a layer's frozen weight; `PART` is in those of the adapter."""


def add_adapter(
    model: LanguageModel, adapter: Adapter, seed: int, precision: Precision = "float32"
) -> LanguageModel:
    """Freeze a model, in the weights of the precision, and put adapters into its layers.

    A is drawn from the seed and B is 0, so the model computes what it did. Raises StageError if no
    layer has a name of `targets`, peft is not installed, or the adapter is to be kept apart and the
    model's folder keeps one apart already.
    """
    if not adapter.merge and is_apart(Path(model.name_or_path)):
        raise StageError(
            "params.adapter.merge: false needs whole weights to stand beside; the input is itself"
            " a base with an adapter apart: set merge: true in the stage that made it, or here"
        )
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError:
        raise StageError("params.adapter needs peft; install it with: pip install peft") from None
    cast_weights(model, precision).requires_grad_(requires_grad=False)
    targets = adapter.targets if isinstance(adapter.targets, str) else list(adapter.targets)
    config = LoraConfig(r=adapter.rank, lora_alpha=adapter.alpha, target_modules=targets)  # type: ignore[arg-type]
    try:
        with torch.random.fork_rng(devices=[]), _telling_peft(model):
            torch.manual_seed(seed)
            inject_adapter_in_model(config, model)
    except ValueError as error:
        names = sorted({n.rpartition(".")[2] for n, m in model.named_modules() if _is_linear(m)})
        raise StageError(
            f"params.adapter.targets: {' '.join(str(error).split())[:200]}; this model's layers are"
            f" called {', '.join(names)}"
        ) from error
    for name, parameter in model.named_parameters():
        if PART in name:
            parameter.data = parameter.data.float()
    return model


@contextmanager
def _telling_peft(model: LanguageModel) -> Iterator[None]:
    """Say inside the block whether a model is in four bits, as transformers would have."""
    is_four_bits = any(map(is_quantized, model.parameters()))
    model.is_loaded_in_4bit = is_four_bits
    try:
        yield
    finally:
        del model.is_loaded_in_4bit


def _is_linear(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Linear)


def is_adapted(model: LanguageModel) -> bool:
    """Return whether a model has adapters."""
    return next(adapted_layers(model), None) is not None


def adapted_layers(model: LanguageModel) -> Iterator[Any]:
    """Yield the layers that have an adapter."""
    yield from (module for module in model.modules() if hasattr(module, "lora_A"))


Whole = Callable[..., AbstractContextManager[object]]
"""Gives a block in which parameters that are sharded among ranks are whole."""


@torch.no_grad()
def merged_weights(
    model: LanguageModel, whole: Whole | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Yield all weights and stored buffers of a model with its adapters, by the model's own names.

    Those of adapted layers are float32 sums, one in memory at a time. With `whole` the parameters
    are sharded: all ranks must go through all of them.
    """
    for name, parameter in model.named_parameters():
        if PART in name:
            continue
        layer, is_base, field = name.partition(BASE)
        is_merged = is_base and field == "weight"
        own = parameter, *(_parts(model.get_submodule(layer)) if is_merged else ())
        with nullcontext() if whole is None else whole(*own):
            weight = dequantized(parameter)
            if is_merged:
                delta = model.get_submodule(layer).get_delta_weight("default")
                weight = weight.float() + delta.float()
            elif whole is not None:
                weight = weight.clone()
        yield name.replace(BASE, "."), weight
    for name, buffer in persistent_buffers(model).items():
        yield name.replace(BASE, "."), buffer


def _parts(layer: Any) -> tuple[Tensor, Tensor]:
    """Return A and B of a layer."""
    return layer.lora_A["default"].weight, layer.lora_B["default"].weight


@contextmanager
def without_adapters(model: LanguageModel) -> Iterator[None]:
    """Have a model compute as its base inside the block."""
    layers = list(adapted_layers(model))
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False
