"""Choosing the engine that trains a model, and loading the model as that engine wants it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from r1pipe.errors import StageError
from r1pipe.ranks import ALONE, Ranks
from r1pipe.settings import EngineRun, Optimizer, Precision
from r1pipe.train.engine import Engine, TorchEngine
from r1pipe.workers import num_workers


def make_engine(
    model: Any,
    optimizer: Optimizer,
    run: EngineRun,
    ranks: Ranks = ALONE,
    precision: Precision = "float32",
) -> Engine:
    """Return an engine for a model that is already on its device, with float32 weights.

    Raises StageError where the engine cannot train in the precision, or lacks something.
    """
    if (message := run.engine.incompatible_with(precision)) is not None:
        raise StageError(message)
    settings: Any = {
        "betas": (optimizer.beta1, optimizer.beta2),
        "weight_decay": optimizer.weight_decay,
        "max_grad_norm": optimizer.max_grad_norm,
        "precision": precision,
    }
    prepare_model(model, run)
    if run.engine.backend == "torch":
        workers = num_workers(run.workers, run.device)
        return TorchEngine(model, **settings, workers=workers)
    with _deepspeed_needed():
        from r1pipe.train.deepspeed_engine import DeepSpeedEngine
    return DeepSpeedEngine(model, run.engine, ranks, **settings)


def load_trained(
    folder: Path,
    run: EngineRun,
    precision: Precision = "float32",
    kind: Any = AutoModelForCausalLM,
    **options: Any,
) -> Any:
    """Return the model of a folder as the engine of `run` is to be given it: in float32 on its
    device, or sharded for ZeRO-3 (`r1pipe.train.sharded.load_sharded`)."""
    if not shards_weights(run):
        options.pop("fresh", None)
        model = kind.from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation="sdpa",
            local_files_only=True,
            **options,
        )
        return model.to(run.device)
    with _deepspeed_needed():
        from r1pipe.train.sharded import load_sharded
    return load_sharded(folder, kind, run.engine, precision, run.device, **options)


def shards_weights(run: EngineRun) -> bool:
    """Return whether the engine shards weights (ZeRO-3)."""
    return run.engine.backend == "deepspeed" and run.engine.zero_stage == 3


@contextmanager
def _deepspeed_needed() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise StageError(
            f"run.engine.backend is deepspeed, but {error.name} is not installed; "
            "install it with: pip install 'r1pipe[deepspeed]'"
        ) from None


def prepare_model(model: Any, run: EngineRun) -> None:
    """Set attention, kernels and activation checkpointing of a model.

    Raises StageError where a package or a GPU is missing.
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
        from transformers.integrations.liger import apply_liger_kernel

        # the loss is ours: it needs each token's log-probability
        apply_liger_kernel(model, {"cross_entropy": False, "fused_linear_cross_entropy": False})


def _need(what: str, module: str, package: str, has_gpu: bool) -> None:
    if not has_gpu:
        raise StageError(f"run.engine: {what} needs a GPU (run.device: cuda)")
    if find_spec(module) is None:
        raise StageError(
            f"run.engine: {what} needs {package}; install it with: pip install {package}"
        )
