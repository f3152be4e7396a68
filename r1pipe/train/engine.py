"""The training engine: gradients summed over micro-batches, one optimizer step, exact state."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from r1pipe.train.batching import MicroBatch

LossFunction = Callable[[Any, MicroBatch], Tensor]
"""(model, micro-batch) -> a scalar whose gradient is added; its denominator is the whole step's."""


class Engine(Protocol):
    """What trains a model; every backend passes one conformance suite."""

    model: Any

    def accumulate(self, batches: Iterable[MicroBatch], loss: LossFunction) -> float:
        """Add the gradients of all micro-batches; return the summed loss."""

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
    ) -> None:
        self.model = model
        self.max_grad_norm = max_grad_norm
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=0.0, betas=betas, weight_decay=weight_decay, fused=True
        )
        model.train()

    def accumulate(self, batches: Iterable[MicroBatch], loss: LossFunction) -> float:
        """Add the gradients of all micro-batches; return the summed loss."""
        total = 0.0
        device = next(iter(self.parameters.values())).device
        for batch in batches:
            value = loss(self.model, batch.to(device))
            value.backward()  # type: ignore[no-untyped-call]
            total += float(value.detach())
        return total

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
