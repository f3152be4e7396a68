"""Backends whose engines may run on a cluster: the settings that they share, and the choice."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from r1pipe.errors import StageError
from r1pipe.generate.protocol import Generator, GeneratorBackend
from r1pipe.generator_settings import SampleRun
from r1pipe.models.interfaces import LanguageModel, Tokenizer
from r1pipe.settings import Placement, Precision


class ClusterBackend(GeneratorBackend):
    """A backend with engines in this process or on this machine, or as actors of Ray."""

    cluster: Literal["ray"] | None = None
    """`ray` makes every engine an actor on a Ray cluster; default: engines on this machine."""
    address: str | None = Field(default=None, min_length=1)
    """The cluster's address, such as `10.0.0.1:6379` or `auto`; default: RAY_ADDRESS of the
    environment, and without that a cluster on this machine, for this run alone."""
    data_parallel: int = Field(default=1, gt=0)
    """Engines side by side, each with its own GPUs and its share of the prompts."""
    max_restarts: int = Field(default=3, ge=0)
    """With `cluster`: how often an engine that died is started again."""
    start_timeout_s: float = Field(default=1800.0, gt=0)
    """With `cluster`: longest time for which no engine may be up, at the start and after deaths."""

    weight_transfer: Literal["object_store", "broadcast"] | None = None
    """With `cluster`, how the weights of a policy in training come to its engines: through Ray's
    object store, which outlives the death of an engine, or by one broadcast to all engines, over
    NCCL between GPUs and gloo between CPUs; default: the object store."""

    @model_validator(mode="after")
    def _address_has_a_cluster(self) -> ClusterBackend:
        for name in ("address", "weight_transfer"):
            if getattr(self, name) is not None and self.cluster is None:
                raise ValueError(f"{name} needs a cluster; add `cluster: ray`")
        return self

    @property
    def is_driven(self) -> bool:
        """Whether one process has the samplers of a policy, however many train it."""
        return self.cluster is not None

    @property
    def fills_slots(self) -> bool:
        """Whether an engine takes more requests than it has slots, and keeps those full."""
        return False

    @property
    def devices_per_engine(self) -> int:
        """GPUs, or cores of a CPU, of one engine."""
        return 1

    def incompatible_ahead(self, num_processes: int) -> str | None:
        """Say what to set if it cannot sample while the policy trains; None if it can."""
        if self.weight_transfer == "broadcast":
            return (
                "run.generator.weight_transfer: with params.staleness weights are pushed while the"
                " policy trains, from a copy on the CPU; leave it out, or leave staleness out"
            )
        return super().incompatible_ahead(num_processes)

    def place(self, device: str, precision: Precision) -> Placement:
        """Return where sampling is done, for its cost."""
        return replace(
            super().place(device, precision),
            processes=self.devices_per_engine * self.data_parallel,
            on_cluster=self.cluster is not None,
        )

    def open_sealed(
        self, folder: Path, tokenizer: Tokenizer, run: SampleRun, precision: Precision
    ) -> Generator:
        """Return a generator for the model in a sealed folder, here or on a cluster."""
        if self.cluster is None:
            return self.open_here(folder, tokenizer, run, precision)
        from r1pipe.generate.ray_engines import RayGenerator

        return RayGenerator(self, folder, run, precision)

    def open_beside(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        run: SampleRun,
        num_ranks: int,
        precision: Precision,
    ) -> Generator:
        """Return a generator for a policy that is being trained, here or on a cluster."""
        if (message := self.incompatible_beside(num_ranks)) is not None:
            raise StageError(message)
        if self.cluster is None:
            return self.open_beside_here(model, tokenizer, run, num_ranks, precision)
        from r1pipe.generate.ray_policy import RayPolicy

        return RayPolicy(self, Path(model.name_or_path), run, precision)

    @abstractmethod
    def open_beside_here(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        run: SampleRun,
        num_ranks: int,
        precision: Precision,
    ) -> Generator:
        """Return a generator for a policy that is being trained, in this process."""

    @abstractmethod
    def open_here(
        self, folder: Path, tokenizer: Tokenizer, run: SampleRun, precision: Precision
    ) -> Generator:
        """Return a generator for the model in a sealed folder, on this machine."""
