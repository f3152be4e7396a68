"""Choosing the engine that trains a model."""

from __future__ import annotations

from typing import Any

from r1pipe.settings import ComputeRun, Optimizer
from r1pipe.train.engine import Engine, TorchEngine
from r1pipe.workers import num_workers


def make_engine(model: Any, optimizer: Optimizer, run: ComputeRun) -> Engine:
    """Return an engine for a model that is already on its device."""
    return TorchEngine(
        model,
        betas=(optimizer.beta1, optimizer.beta2),
        weight_decay=optimizer.weight_decay,
        max_grad_norm=optimizer.max_grad_norm,
        workers=num_workers(run.workers, run.device),
    )
