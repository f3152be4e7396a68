"""One engine on a Ray cluster that samples a policy in training, in a process of its own
(`r1pipe.generate.ray_policy` has the other side)."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from r1pipe.generate.protocol import Generator, ReceivingGenerator, Request, Sampled, SamplingParams
from r1pipe.generate.ray_actor import EngineSpec, Up
from r1pipe.generate.ray_versions import versions
from r1pipe.generator_settings import SampleRun

if TYPE_CHECKING:
    from torch import Tensor

    from r1pipe.generate.weight_group import Meeting, WeightGroup


@dataclass(frozen=True)
class Pushed:
    """Weights that an engine needs before it samples."""

    number: int
    """Of the push."""
    parts: Sequence[Any] | None
    """References to files of safetensors in the object store; None: they were broadcast."""


@dataclass(frozen=True)
class Joined:
    """The engine is in the group in which weights are broadcast."""


@dataclass(frozen=True)
class Received:
    """The engine has weights that were broadcast."""

    number: int


class PolicyActor:
    """The actor; it is called in turn."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._stack = ExitStack()
        self._generator: Generator | None = None
        self._group: WeightGroup | None = None
        self._device = "cpu"
        self._loaded = 0

    def up(self) -> Up:
        """Build the engine."""
        from r1pipe.generate.backends import open_generator

        run = SampleRun.model_validate_json(self._spec.run)
        folder, size = self._stack.enter_context(self._spec.model_here())
        opened = open_generator(folder, run, self._spec.precision)
        self._generator, _ = self._stack.enter_context(opened)
        self._device = run.device
        slots = run.generator.concurrency(run.max_batch)
        place = f"{socket.gethostname()}, process {os.getpid()}"
        if isinstance(self._generator, ReceivingGenerator):
            return Up(place, slots, versions(), size, self._generator.num_receivers)
        return Up(place, slots, versions(), size)

    def join(self, meeting: Meeting, first: int) -> Joined:
        """Join a group with the ranks from `first` on; wait for its other members."""
        if isinstance(self._generator, ReceivingGenerator):
            self._generator.join(meeting, first)
        else:
            self._group = joined(self._group, meeting, first, self._device)
        return Joined()

    def receive(self, number: int) -> Received:
        """Take weights that are broadcast now."""
        assert self._generator is not None, "the engine is built first"
        if isinstance(self._generator, ReceivingGenerator):
            self._generator.receive()
        else:
            assert self._group is not None, "the group is joined first"
            self._generator.load_weights(self._group.receive())
        self._loaded = number
        return Received(number)

    def sample(
        self, pushed: Pushed | None, requests: Sequence[Request], sampling: SamplingParams
    ) -> list[Sampled]:
        """Load the weights that were pushed, if they are others; sample a batch."""
        assert self._generator is not None, "the engine is built first"
        if pushed is not None and pushed.number != self._loaded:
            assert pushed.parts is not None, "only an engine that has them is asked"
            self._generator.load_weights(fetched(pushed.parts))
            self._loaded = pushed.number
        return list(self._generator.generate(requests, sampling))


def joined(old: WeightGroup | None, meeting: Meeting, rank: int, device: str) -> WeightGroup:
    """Return a member of a new group, and leave the old one."""
    import torch

    from r1pipe.generate.weight_group import WeightGroup

    if old is not None:
        old.close()
    found = torch.device(device)
    if found.type == "cuda" and found.index is None:
        found = torch.device("cuda", torch.cuda.current_device())
    return WeightGroup(meeting, rank, found)


def fetched(parts: Sequence[Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield weights from the object store, part by part."""
    import ray
    from safetensors.torch import load

    for part in parts:
        yield from load(ray.get(part)).items()
