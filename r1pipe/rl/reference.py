"""The reference policy of the KL term: frozen between refreshes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor

from r1pipe.ranks import ALONE, Ranks
from r1pipe.rl.update import frozen_logprobs, policy_logprobs
from r1pipe.settings import Precision
from r1pipe.train.batching import Batching, TokenSequence
from r1pipe.train.state import StateWriter

if TYPE_CHECKING:
    from r1pipe.train.parts import FrozenParts

NAME = "reference"


class Reference:
    """A frozen copy of the policy. R1 moves it to the policy every 400 updates, since a fixed
    anchor over thousands of updates would block exploration (arXiv:2501.12948v2, A.3).

    It lies as the policy does: whole on every rank, or (`parts`) divided among them by ZeRO-3. All
    ranks call its methods together.
    """

    def __init__(self, model: Any, ranks: Ranks = ALONE, parts: FrozenParts | None = None) -> None:
        self.model = model
        self._ranks = ranks
        self._parts = parts

    def logprobs(
        self,
        sequences: Sequence[TokenSequence],
        temperature: float,
        batching: Batching,
        precision: Precision = "float32",
    ) -> list[list[float]]:
        """Return each sequence's completion log-probabilities at the sampling temperature.

        Each rank computes a share; all get all of them.
        """
        if self._parts is not None:
            return policy_logprobs(self._parts, sequences, temperature, batching)
        share = self._ranks.share(sequences)
        numbered = [replace(each, index=place) for place, each in enumerate(share)]
        mine = frozen_logprobs(self.model, numbered, temperature, batching, precision)
        return [row for rows in self._ranks.gather(mine) for row in rows]

    def refresh(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Become the policy of these weights, by the parameter's name."""
        own = dict(self.model.named_parameters())
        for name, tensor in weights:
            with self._writing(own[name]):
                own[name].data.copy_(tensor.detach())

    def save(self, folder: Path) -> None:
        """Write the weights into a checkpoint folder: rank 0 all, or each rank some of them."""
        is_divided, rank = self._parts is not None, self._ranks.rank
        writer = StateWriter(folder, f"{NAME}-{rank:05d}" if is_divided else NAME)
        for number, (name, parameter) in enumerate(self.model.named_parameters()):
            with self._writing(parameter):
                if rank == (number % self._ranks.size if is_divided else 0):
                    writer.add(name, parameter.data)
        writer.flush()

    def load(self, folder: Path) -> None:
        """Read the weights from a checkpoint folder, whatever wrote it."""
        own = dict(self.model.named_parameters())
        with ExitStack() as stack, torch.no_grad():
            for path in sorted(folder.glob(f"{NAME}*.safetensors")):
                file = stack.enter_context(safe_open(path, framework="pt"))
                for name in file.keys():  # noqa: SIM118 - no mapping
                    with self._writing(own[name]):
                        own[name].data.copy_(file.get_tensor(name))

    def close(self) -> None:
        """Free what divides it."""
        if self._parts is not None:
            self._parts.close()

    def _writing(self, parameter: Any) -> AbstractContextManager[Any]:
        return nullcontext() if self._parts is None else self._parts.writing(parameter)
