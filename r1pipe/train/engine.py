"""The training engine: gradients summed over micro-batches, one optimizer step, exact state."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from r1pipe.train.batching import MicroBatch
from r1pipe.workers import in_order


@dataclass(frozen=True)
class Loss:
    """What one micro-batch adds to a step."""

    value: Tensor
    """A scalar whose gradient is added; its denominator is the whole step's."""
    sums: Mapping[str, float] = field(default_factory=dict)
    """Measures that add up over the step."""
    peaks: Mapping[str, float] = field(default_factory=dict)
    """Measures of which the step has the largest."""


LossFunction = Callable[[Any, MicroBatch], Loss]
"""(model, micro-batch) -> its loss. Several threads may call it at once."""


class Engine(Protocol):
    """What trains a model; every backend passes one conformance suite."""

    model: Any

    def accumulate(self, batches: Iterable[MicroBatch], loss: LossFunction) -> dict[str, float]:
        """Add the gradients of all micro-batches; return `loss`, the sums and the peaks."""

    def step(self, learning_rate: float) -> float:
        """Clip, update, clear the gradients; return the gradient norm before clipping."""

    def save(self, folder: Path) -> None:
        """Write weights and optimizer state, exactly, into an existing folder."""

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""

    def close(self) -> None:
        """Free processes and memory."""


class TorchEngine:
    """One process, AdamW; the default on a laptop and on one GPU."""

    def __init__(
        self,
        model: Any,
        *,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
        workers: int = 1,
    ) -> None:
        self.model = model
        self.workers = workers
        self.max_grad_norm = max_grad_norm
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=0.0, betas=betas, weight_decay=weight_decay, fused=True
        )
        model.train()

    def accumulate(self, batches: Iterable[MicroBatch], loss: LossFunction) -> dict[str, float]:
        """Add the gradients of all micro-batches; return `loss`, the sums and the peaks.

        Threads compute them; they are added in the order of the micro-batches, here.
        """
        totals = {"loss": 0.0}
        trained = list(self.parameters.values())
        device = trained[0].device

        def differentiate(batch: MicroBatch) -> tuple[Loss, Sequence[Tensor | None]]:
            part = loss(self.model, batch.to(device))
            return part, torch.autograd.grad(part.value, trained, allow_unused=True)

        def backward(batch: MicroBatch) -> tuple[Loss, Sequence[Tensor | None]]:
            part = loss(self.model, batch.to(device))
            part.value.backward()  # type: ignore[no-untyped-call]
            return part, ()

        compute = differentiate if self.workers > 1 else backward
        for part, gradients in in_order(compute, batches, self.workers):
            for parameter, gradient in zip(trained, gradients, strict=False):
                if gradient is not None:
                    before = parameter.grad
                    parameter.grad = gradient if before is None else before + gradient
            add_up(totals, part)
        return totals

    def step(self, learning_rate: float) -> float:
        """Clip, update, clear the gradients; return the gradient norm before clipping."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def save(self, folder: Path) -> None:
        """Write weights and optimizer state, exactly, into an existing folder."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            tensors[f"weight:{name}"] = parameter.detach()
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer:{key}:{name}"] = torch.as_tensor(value)
        save_file(
            {k: t.contiguous().cpu() for k, t in tensors.items()}, folder / "engine.safetensors"
        )
        (folder / "engine.json").write_text(json.dumps({"backend": "torch", "format": 1}))

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        tensors = load_file(folder / "engine.safetensors")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"weight:{name}"])
                state = {
                    key.split(":", 2)[1]: tensor.to(parameter.device)
                    for key, tensor in tensors.items()
                    if key.startswith("optimizer:") and key.split(":", 2)[2] == name
                }
                if state:
                    self.optimizer.state[parameter] = state

    def close(self) -> None:
        """Nothing runs beside this process."""


def add_up(totals: dict[str, float], part: Loss) -> None:
    """Add a micro-batch's loss and measures to those of its step."""
    totals["loss"] += float(part.value.detach())
    for name, value in part.sums.items():
        totals[name] = totals.get(name, 0.0) + value
    for name, value in part.peaks.items():
        totals[name] = max(totals.get(name, value), value)
