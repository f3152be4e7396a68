"""The reference policy of the KL term: frozen between refreshes."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from safetensors import safe_open
from torch import Tensor

from r1pipe.engine_settings import EngineRun
from r1pipe.models.adapters import is_adapted
from r1pipe.models.interfaces import LanguageModel
from r1pipe.models.policy import freeze
from r1pipe.models.precision import cast_weights
from r1pipe.ranks import ALONE, Ranks
from r1pipe.records import TokenSequence
from r1pipe.settings import Precision
from r1pipe.train.adapter_reference import AdapterReference
from r1pipe.train.backends import load_trained, shards_weights
from r1pipe.train.batching import Batching
from r1pipe.train.engine import LocalForward
from r1pipe.train.logprobs import completion_logprobs, shared_logprobs
from r1pipe.train.state import StateWriter

if TYPE_CHECKING:
    from r1pipe.train.sharded import ShardedReference

NAME = "reference"


class Anchor(Protocol):
    """What a policy's log-probabilities are compared with: a frozen copy, its own base beside an
    adapter, or a teacher, here or behind a server."""

    def logprobs(
        self, sequences: Sequence[TokenSequence], temperature: float, batching: Batching
    ) -> list[list[float]]:
        """Return each sequence's completion log-probabilities, on every rank."""

    def refresh(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Become the policy of these weights."""

    def close(self) -> None:
        """Free what it holds."""


class Reference:
    """A frozen copy of the policy. R1 moves it to the policy every 400 updates, since a fixed
    anchor over thousands of updates would block exploration (arXiv:2501.12948v2, A.3).

    Like the policy it is whole on every rank, or sharded among them by ZeRO-3. All ranks call its
    methods together.
    """

    def __init__(
        self,
        model: LanguageModel,
        ranks: Ranks = ALONE,
        precision: Precision = "float32",
        sharded: ShardedReference | None = None,
    ) -> None:
        self.model = model
        self._ranks = ranks
        self._precision = precision
        self._sharded = sharded

    def logprobs(
        self, sequences: Sequence[TokenSequence], temperature: float, batching: Batching
    ) -> list[list[float]]:
        """Return each sequence's completion log-probabilities at the sampling temperature.

        Each rank computes a share; all get all of them.
        """
        if self._sharded is not None:
            return completion_logprobs(self._sharded, sequences, temperature, batching)
        forward = LocalForward(self.model, self._precision, batching.workers)
        return shared_logprobs(forward, self._ranks, sequences, temperature, batching)

    def refresh(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Become the policy of these weights, by the parameter's name."""
        own = dict(self.model.named_parameters())
        for name, tensor in weights:
            if name not in own:
                continue  # a buffer, which training does not move
            with self._writing(own[name]):
                own[name].data.copy_(tensor.detach())

    def save(self, folder: Path) -> None:
        """Write the weights into a checkpoint folder: rank 0 all, or each rank some of them."""
        is_sharded, rank = self._sharded is not None, self._ranks.rank
        writer = StateWriter(folder, f"{NAME}-{rank:05d}" if is_sharded else NAME)
        for number, (name, parameter) in enumerate(self.model.named_parameters()):
            with self._writing(parameter):
                if rank == (number % self._ranks.size if is_sharded else 0):
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
        """Free what shards it."""
        if self._sharded is not None:
            self._sharded.close()

    def _writing(self, parameter: Tensor) -> AbstractContextManager[object]:
        return nullcontext() if self._sharded is None else self._sharded.writing(parameter)


def make_reference(
    model: LanguageModel, run: EngineRun, ranks: Ranks, precision: Precision
) -> Reference | AdapterReference:
    """Return a frozen copy of the policy, which computes as the engine will; of a policy with
    adapters its own base, or with ZeRO-3 a second shard of that.

    DeepSpeed has weights of the precision, so the copy has them too; beside PyTorch it has the
    float32 weights and computes under autocast.
    """
    if is_adapted(model) and not shards_weights(run):
        return AdapterReference(model, precision, ranks)
    if not shards_weights(run):
        own = freeze(copy.deepcopy(model))
        if run.engine.casts_weights:
            own = cast_weights(own, precision)
        sharded = None
    else:
        from r1pipe.train.sharded import ShardedReference

        own = freeze(load_trained(Path(model.name_or_path), run, precision))
        sharded = ShardedReference(own, run.engine, ranks, precision)
    return Reference(own, ranks, precision, sharded)
