"""Choosing the engine that trains a model."""

from __future__ import annotations

from typing import Any

from r1pipe.errors import StageError
from r1pipe.ranks import ALONE, Ranks
from r1pipe.settings import EngineRun, Optimizer
from r1pipe.train.engine import Engine, TorchEngine
from r1pipe.workers import num_workers


def make_engine(model: Any, optimizer: Optimizer, run: EngineRun, ranks: Ranks = ALONE) -> Engine:
    """Return an engine for a model that is already on its device."""
    settings: Any = {
        "betas": (optimizer.beta1, optimizer.beta2),
        "weight_decay": optimizer.weight_decay,
        "max_grad_norm": optimizer.max_grad_norm,
    }
    if run.engine.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if run.engine.backend == "torch":
        workers = num_workers(run.workers, run.device)
        return TorchEngine(model, **settings, workers=workers, bf16=run.engine.bf16)
    try:
        from r1pipe.train.deepspeed_engine import DeepSpeedEngine
    except ModuleNotFoundError as error:
        raise StageError(
            f"run.engine.backend is deepspeed, but {error.name} is not installed; "
            "install it with: pip install 'r1pipe[deepspeed]'"
        ) from None
    return DeepSpeedEngine(model, run.engine, ranks, **settings)
