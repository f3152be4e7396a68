"""Engines by their settings: open one, and load the model as it takes it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

from r1pipe.engine_settings import EngineRun
from r1pipe.errors import StageError
from r1pipe.models.adapters import add_adapter
from r1pipe.models.interfaces import LanguageModel
from r1pipe.models.policy import without_randomness
from r1pipe.models.quantized import quantize
from r1pipe.ranks import ALONE, Ranks
from r1pipe.settings import Adapter, AdapterParams, Optimizer, Precision
from r1pipe.text import visible
from r1pipe.train.engine import Engine
from r1pipe.train.protocol import EngineBackend


def make_engine(
    model: LanguageModel,
    optimizer: Optimizer,
    run: EngineRun,
    ranks: Ranks = ALONE,
    precision: Precision = "float32",
    warn: Callable[[str], None] = warnings.warn,
) -> Engine:
    """Return an engine for a model that is already on its device, with float32 weights.

    `warn` is told of settings that the model cannot have. Raises StageError if the engine cannot
    train in the precision, or lacks something.
    """
    if (message := run.engine.incompatible_with(precision)) is not None:
        raise StageError(message)
    prepare_model(model, run, warn)
    return _backend(run).engine(model, optimizer, run, ranks, precision)


def load_trained(
    folder: Path,
    run: EngineRun,
    precision: Precision = "float32",
    kind: Any = AutoModelForCausalLM,
    adapter: Adapter | None = None,
    **options: Any,
) -> Any:
    """Return the model of a folder as the engine of `run` takes it: in float32 on its
    device, without dropout, or sharded for ZeRO-3 (`r1pipe.train.sharded.load_sharded`).

    Under an adapter that quantizes: its linear layers in four bits, never whole on the device.
    """
    if adapter is None or adapter.quantize is None:
        return without_randomness(
            _backend(run).load(folder, kind, precision, run.device, **options)
        )
    whole = _backend(run).load(folder, kind, precision, "cpu", dtype="auto", **options)
    return quantize(without_randomness(whole), precision, run.device)


def load_policy(folder: Path, run: EngineRun, params: AdapterParams, seed: int) -> LanguageModel:
    """Return a folder's model to be trained (`load_trained`), with the adapter that `params` ask
    for, drawn from the seed."""
    model: LanguageModel = load_trained(folder, run, params.precision, adapter=params.adapter)
    if params.adapter is None:
        return model
    return add_adapter(model, params.adapter, seed, params.precision)


def shards_weights(run: EngineRun) -> bool:
    """Return whether the engine shards weights (ZeRO-3)."""
    return run.engine.shards_weights


def _backend(run: EngineRun) -> EngineBackend:
    settings = run.engine
    assert isinstance(settings, EngineBackend), f"{settings!r} cannot make an engine"
    return settings


def prepare_model(model: LanguageModel, run: EngineRun, warn: Callable[[str], None]) -> None:
    """Set attention, kernels and activation checkpointing of a model.

    `warn` is told of what the model cannot have. Raises StageError if a package or a GPU is
    missing.
    """
    settings, has_gpu = run.engine, run.device.startswith("cuda")
    if settings.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if settings.attention == "eager":
        model.set_attn_implementation("eager")
    if settings.attention == "flash":
        _need("attention flash", "flash_attn", "flash-attn", has_gpu)
        model.set_attn_implementation("flash_attention_2")
    if settings.kernels == "liger":
        _need("kernels liger", "liger_kernel", "liger-kernel", has_gpu)
        _apply_liger(model, warn)


def _apply_liger(model: LanguageModel, warn: Callable[[str], None]) -> None:
    """Give a model the kernels of liger-kernel; of a type that it does not know it leaves all as it
    is, in silence."""
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
    from transformers.integrations.liger import apply_liger_kernel

    kind = str(model.config.model_type)
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        known = ", ".join(sorted(map(str, MODEL_TYPE_TO_APPLY_LIGER_FN)))
        warn(
            f"run.engine.kernels: liger has none for models of type {visible(kind)}, which is"
            f" trained with PyTorch's (set torch); it knows {known}"
        )
        return
    # the loss is ours: it needs each token's log-probability
    apply_liger_kernel(model, {"cross_entropy": False, "fused_linear_cross_entropy": False})


def _need(what: str, module: str, package: str, has_gpu: bool) -> None:
    if not has_gpu:
        raise StageError(f"run.engine: {what} needs a GPU (run.device: cuda)")
    if find_spec(module) is None:
        raise StageError(
            f"run.engine: {what} needs {package}; install it with: pip install {package}"
        )
