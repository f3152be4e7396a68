"""The reference policy of the KL term: frozen between refreshes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from r1pipe.rl.update import frozen_logprobs
from r1pipe.settings import Precision
from r1pipe.train.batching import Batching, TokenSequence
from r1pipe.train.state import save_tensors

FILE = "reference.safetensors"


class Reference:
    """A frozen copy of the policy. R1 moves it to the policy every 400 updates, since a fixed
    anchor over thousands of updates would block exploration (arXiv:2501.12948v2, A.3)."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def logprobs(
        self,
        sequences: Sequence[TokenSequence],
        temperature: float,
        batching: Batching,
        precision: Precision = "float32",
    ) -> list[list[float]]:
        """Return each sequence's completion log-probabilities at the sampling temperature."""
        return frozen_logprobs(self.model, sequences, temperature, batching, precision)

    def refresh(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Become the policy of these weights, by the parameter's name."""
        own = dict(self.model.named_parameters())
        for name, tensor in weights:
            own[name].data.copy_(tensor.detach())

    def save(self, folder: Path) -> None:
        """Write the weights into a checkpoint folder."""
        tensors = {n: p.detach().cpu().contiguous() for n, p in self.model.named_parameters()}
        save_tensors(tensors, folder / FILE)

    def load(self, folder: Path) -> None:
        """Read the weights from a checkpoint folder."""
        tensors = load_file(folder / FILE)
        for name, parameter in self.model.named_parameters():
            parameter.data.copy_(tensors[name])
