"""The reference of a policy with adapters, which needs no second model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from r1pipe.models.adapters import without_adapters
from r1pipe.models.interfaces import LanguageModel
from r1pipe.models.stored_adapters import PART
from r1pipe.ranks import ALONE, Ranks
from r1pipe.records import TokenSequence
from r1pipe.settings import Precision
from r1pipe.train.batching import Batching
from r1pipe.train.engine import LocalForward
from r1pipe.train.logprobs import shared_logprobs
from r1pipe.train.state import StateWriter

NAME = "reference"


class AdapterReference:
    """The reference of a policy with adapters: the base itself, so no copy of it is in memory.

    When it becomes the policy (a refresh), it keeps a copy of the adapters, which take the place
    of the policy's while it computes.
    """

    def __init__(self, model: LanguageModel, precision: Precision, ranks: Ranks = ALONE) -> None:
        self.model = model
        self.kept: dict[str, Tensor] | None = None
        """The adapters of the last refresh, by name."""
        self._precision = precision
        self._ranks = ranks

    def logprobs(
        self, sequences: Sequence[TokenSequence], temperature: float, batching: Batching
    ) -> list[list[float]]:
        """Return each sequence's completion log-probabilities at the sampling temperature.

        Each rank computes a share; all get all of them.
        """
        forward = LocalForward(self.model, self._precision, batching.workers)
        with self._in_place():
            return shared_logprobs(forward, self._ranks, sequences, temperature, batching)

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        if self.kept is None:
            with without_adapters(self.model):
                yield
            return
        own = self._own()
        policy = {name: parameter.data for name, parameter in own.items()}
        for name, parameter in own.items():
            parameter.data = self.kept[name]
        try:
            yield
        finally:
            for name, parameter in own.items():
                parameter.data = policy[name]

    def _own(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.model.named_parameters() if PART in name}

    def refresh(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Become the policy as it is now; its merged weights are not needed."""
        self.kept = {name: p.detach().clone() for name, p in self._own().items()}

    def save(self, folder: Path) -> None:
        """Write the adapters into a checkpoint folder; nothing while it is the base."""
        writer = StateWriter(folder, NAME)
        for name, tensor in (self.kept or {}).items():
            writer.add(name, tensor)
        writer.flush()

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        paths = sorted(folder.glob(f"{NAME}*.safetensors"))
        self.kept = {} if paths else None
        for path in paths:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - no mapping
                    assert self.kept is not None
                    self.kept[name] = file.get_tensor(name).to(self.model.device)

    def close(self) -> None:
        """The model is the policy's own."""
