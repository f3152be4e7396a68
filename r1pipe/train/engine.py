"""The training engine: gradients summed over micro-batches, one optimizer step, exact state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from r1pipe.models.adapters import is_adapted, merged_weights
from r1pipe.models.interfaces import LanguageModel
from r1pipe.models.policy import persistent_buffers
from r1pipe.models.precision import computing
from r1pipe.settings import Precision
from r1pipe.train.batching import MicroBatch
from r1pipe.train.packed import attending
from r1pipe.train.state import StateWriter, read_state, write_facts
from r1pipe.workers import in_order

Measures = tuple[float, Mapping[str, float], Mapping[str, float]]
"""Loss, sums and peaks of one micro-batch as plain numbers."""


@dataclass(frozen=True)
class Loss:
    """Loss and measures that one micro-batch adds to a step."""

    value: Tensor
    """A scalar whose gradient is added; its denominator is the whole step's."""
    sums: Mapping[str, float] = field(default_factory=dict)
    """Measures that add up over the step."""
    peaks: Mapping[str, float] = field(default_factory=dict)
    """Measures of which the step has the largest."""

    def measures(self) -> Measures:
        """Return what is logged, as plain numbers."""
        return float(self.value.detach()), self.sums, self.peaks


LossFunction = Callable[[LanguageModel, MicroBatch], Loss]
"""(model, micro-batch) -> its loss. Several threads may call it at once."""
TokenFunction = Callable[[LanguageModel, MicroBatch], Tensor]
"""(model, micro-batch) -> one number for each trained token, in row order."""


class Forward(Protocol):
    """Forward passes of a model, without gradients."""

    def per_token(
        self, batches: Iterable[MicroBatch], function: TokenFunction
    ) -> list[list[float]]:
        """Return the function's numbers for every micro-batch, in their order, on every rank.

        Called with the same micro-batches on every rank.
        """


class Engine(Forward, Protocol):
    """Training of a model; every backend passes one conformance suite."""

    model: LanguageModel
    parameters: dict[str, Tensor]
    """Trained parameters by name; sharded if the engine keeps it so."""

    def accumulate(self, batches: Iterable[MicroBatch], loss: LossFunction) -> dict[str, float]:
        """Add the gradients of all micro-batches; return `loss`, the sums and the peaks.

        Called once for a step, with all micro-batches of the step on every rank.
        """

    def step(self, learning_rate: float) -> float:
        """Clip, update, clear the gradients; return the gradient norm before clipping.

        If the norm is not finite, no weight changes.
        """

    def writing(self, parameter: Tensor) -> AbstractContextManager[object]:
        """Give a block in which `parameter.data` is whole, and what is written into it stays."""

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every trained parameter, whole, by name, then the buffers that files hold; each one
        is valid until the next.

        All ranks must go through all of them.
        """

    def consolidated(self) -> dict[str, Tensor] | None:
        """Return the float32 weights on the CPU, and the buffers that files hold, by name; None on
        ranks other than 0."""

    def save(self, folder: Path) -> None:
        """Write weights and optimizer state, exactly, into an existing folder."""

    def load(self, folder: Path) -> None:
        """Read what the `save` of any engine wrote, on any number of ranks."""

    def close(self) -> None:
        """Free processes and memory; afterwards the engine's model is not to be used."""


class LocalForward:
    """Runs a model of this process forward; threads share the micro-batches."""

    def __init__(
        self, model: LanguageModel, precision: Precision = "float32", workers: int = 1
    ) -> None:
        self.model = model
        self.precision = precision
        self.workers = workers

    def per_token(
        self, batches: Iterable[MicroBatch], function: TokenFunction
    ) -> list[list[float]]:
        """Return the function's numbers for every micro-batch, in their order."""

        @torch.no_grad()
        def compute(batch: MicroBatch) -> list[float]:
            with computing(self.model, self.precision):
                values: list[float] = function(self.model, batch.to(self.model.device)).tolist()
            return values

        everyone = list(batches)
        with attending(self.model, everyone):
            return list(in_order(compute, everyone, self.workers))


class TorchEngine(LocalForward):
    """One process, AdamW; the default on a laptop and on one GPU."""

    def __init__(
        self,
        model: LanguageModel,
        *,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
        workers: int = 1,
        precision: Precision = "float32",
    ) -> None:
        super().__init__(model, precision, workers)
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
        totals, own = {"loss": 0.0}, set[int]()
        trained = list(self.parameters.values())
        device = trained[0].device

        def forward(batch: MicroBatch) -> Loss:
            with computing(self.model, self.precision):
                return loss(self.model, batch.to(device))

        def differentiate(batch: MicroBatch) -> tuple[Loss, Sequence[Tensor | None]]:
            part = forward(batch)
            return part, torch.autograd.grad(part.value, trained, allow_unused=True)

        def backward(batch: MicroBatch) -> tuple[Loss, Sequence[Tensor | None]]:
            part = forward(batch)
            part.value.backward()
            return part, ()

        compute = differentiate if self.workers > 1 else backward
        everyone = list(batches)
        with attending(self.model, everyone):
            # no gradients wait to be taken but those being computed: each set is a model's size
            for part, gradients in in_order(compute, everyone, self.workers, ahead=self.workers):
                add_gradients(trained, gradients, own)
                add_up(totals, part.measures())
                del part, gradients
        return totals

    def step(self, learning_rate: float) -> float:
        """Clip, update, clear the gradients; return the gradient norm before clipping."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.max_grad_norm)
        if norm.isfinite():
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def writing(self, parameter: Tensor) -> AbstractContextManager[object]:
        """Every parameter is whole."""
        return nullcontext()

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every trained parameter by name: the parameter itself; adapters merged."""
        if is_adapted(self.model):
            yield from merged_weights(self.model)
        else:
            yield from self.parameters.items()
            yield from persistent_buffers(self.model).items()

    def consolidated(self) -> dict[str, Tensor] | None:
        """Return the weights on the CPU, by name."""
        return {name: tensor.detach().cpu() for name, tensor in self.weights()}

    def save(self, folder: Path) -> None:
        """Write weights and optimizer state, exactly, into an existing folder."""
        writer = StateWriter(folder)
        for name, parameter in self.parameters.items():
            writer.add(f"weight:{name}", parameter)
            for key, value in self.optimizer.state.get(parameter, {}).items():
                writer.add(f"optimizer:{key}:{name}", torch.as_tensor(value))
        writer.flush()
        write_facts(folder, backend="torch")

    def load(self, folder: Path) -> None:
        """Read what the `save` of any engine wrote, on any number of ranks."""
        with torch.no_grad():
            for name, weight, state in read_state(folder, list(self.parameters)):
                parameter = self.parameters[name]
                parameter.copy_(weight)
                if state:
                    moved = {key: value.to(parameter.device) for key, value in state.items()}
                    self.optimizer.state[parameter] = moved

    def close(self) -> None:
        """Nothing runs beside this process."""


def add_gradients(
    parameters: Sequence[Tensor], gradients: Sequence[Tensor | None], own: set[int]
) -> None:
    """Add gradients (none at all if the backward pass has added them) to those of a step.

    `own` has the places of the parameters whose sum is in memory of its own; it grows. The first
    gradient of a parameter may share its memory with another one's.
    """
    for place, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=False)):
        if gradient is None:
            continue
        if parameter.grad is None:
            parameter.grad = gradient
        elif place in own:
            parameter.grad += gradient
        else:
            parameter.grad = parameter.grad + gradient
            own.add(place)


def add_up(totals: dict[str, float], part: Measures) -> None:
    """Add a micro-batch's loss and measures to those of its step."""
    loss, sums, peaks = part
    totals["loss"] += loss
    for name, value in sums.items():
        totals[name] = totals.get(name, 0.0) + value
    for name, value in peaks.items():
        totals[name] = max(totals.get(name, value), value)
