"""Engines on a Ray cluster that sample a policy in training.

Requests are cut into batches, and an engine that is free takes the next one. transformers has those
of the backend in one process: what is sampled together never depends on the number of engines, on
their speed or on their deaths, and neither do log-probabilities in their last bits. vLLM, whose
tokens do not depend on that as far as it can help it, has one batch for each engine: slots are
empty at a batch's end.

A push puts the weights into Ray's object store; a node fetches them once. An engine loads them
before its next batch, so one that was started again has them too.
"""

from __future__ import annotations

import math
import queue
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1pipe.errors import StageError
from r1pipe.generate.protocol import (
    Generator,
    Request,
    Sampled,
    SamplingParams,
    Weights,
    in_prompt_order,
)
from r1pipe.generate.ray_actor import EngineSpec, Up
from r1pipe.generate.ray_cluster import LOCAL, RayCluster, address_of, last_line
from r1pipe.generate.ray_engines import of_one_engine
from r1pipe.generate.ray_versions import OneVersion, versions
from r1pipe.generate.ray_waiting import Patience
from r1pipe.generator_settings import SampleRun
from r1pipe.settings import Precision

if TYPE_CHECKING:
    from torch import Tensor

    from r1pipe.generate.clusters import ClusterBackend

PART_BYTES = 64 << 20
"""Of the weights, put into the object store together."""


@dataclass(frozen=True)
class Pushed:
    """Weights in the object store."""

    number: int
    """Of the push."""
    parts: Sequence[Any]
    """References to files of safetensors."""


class PolicyActor:
    """One engine, in a process of its own; it is called in turn."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._stack = ExitStack()
        self._generator: Generator | None = None
        self._loaded = 0

    def up(self) -> Up:
        """Build the engine."""
        import os
        import socket

        from r1pipe.generate.backends import open_generator

        run = SampleRun.model_validate_json(self._spec.run)
        folder, size = self._stack.enter_context(self._spec.model_here())
        opened = open_generator(folder, run, self._spec.precision)
        self._generator, _ = self._stack.enter_context(opened)
        slots = run.generator.concurrency(run.max_batch)
        place = f"{socket.gethostname()}, process {os.getpid()}"
        return Up(place, slots, versions(), size)

    def sample(
        self, pushed: Pushed | None, requests: Sequence[Request], sampling: SamplingParams
    ) -> list[Sampled]:
        """Load the weights that were pushed, if they are others; sample a batch."""
        assert self._generator is not None, "the engine is built first"
        if pushed is not None and pushed.number != self._loaded:
            self._generator.load_weights(fetched(pushed.parts))
            self._loaded = pushed.number
        return list(self._generator.generate(requests, sampling))


def fetched(parts: Sequence[Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield weights from the object store, part by part."""
    import ray
    from safetensors.torch import load

    for part in parts:
        yield from load(ray.get(part)).items()


def stored(tensors: Weights) -> Iterator[bytes]:
    """Yield weights as files of safetensors of a bounded size."""
    from safetensors.torch import save

    from r1pipe.generate.weights import in_parts

    for part in in_parts(tensors, PART_BYTES):
        yield save(part)
        part.clear()


def batches(
    requests: Sequence[Request], slots: int, num_engines: int | None = None
) -> list[list[Request]]:
    """Return requests in batches of as many as an engine has slots; or, with `num_engines`, whose
    engines keep their slots full inside a batch, in no more batches than engines if they have so
    many slots."""
    ordered = sorted(requests, key=in_prompt_order)
    size = slots if num_engines is None else max(slots, math.ceil(len(ordered) / num_engines))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def refuse_own_gpus(address: str | None) -> None:
    """Raise StageError if samplers would be given the GPUs of the trainer, which is this run."""
    if address_of(address) == LOCAL:
        raise StageError(
            "run.generator.cluster: a cluster that this run starts would give the samplers the"
            " trainer's GPUs; set run.generator.address or RAY_ADDRESS to one that has others"
            " (CUDA_VISIBLE_DEVICES=1,2,3 ray start --head), or leave the cluster out"
        )


def weight_bytes(folder: Path) -> int:
    """Return what the weights of a model's folder take in float32, as a trainer has them."""
    from safetensors import safe_open

    count = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            shapes = (file.get_slice(name).get_shape() for name in file.keys())  # noqa: SIM118
            count += sum(map(math.prod, shapes))
    return 4 * count


@dataclass
class _Engine:
    number: int
    group: Any
    restarts_left: int
    actor: Any = None
    place: str = "not placed"
    is_up: bool = False
    batch: list[Request] = field(default_factory=list)
    """What it samples."""


@dataclass(frozen=True)
class _Answer:
    """Of an actor, and to which call."""

    engine: _Engine
    actor: Any
    sampling: int
    """The number of the sampling, or 0 where the engine was built."""
    future: Future[Any]


class RayPolicy:
    """A generator whose engines are elsewhere, and are given the weights of a policy."""

    def __init__(
        self, settings: ClusterBackend, folder: Path, run: SampleRun, precision: Precision
    ) -> None:
        """Start `data_parallel` engines; return as soon as the first is up.

        Raises StageError if none can be.
        """
        self.settings = settings
        self.losses: list[str] = []
        """Engines that were lost while others took over, and how."""
        self.pushed_bytes = 0
        """Of the last push."""
        self.fetched_bytes = 0
        """Of the model, by all nodes that do not see it."""
        self._size = settings.concurrency(run.max_batch)
        self._answers: queue.Queue[_Answer | None] = queue.Queue()
        self._versions = OneVersion()
        self._pushed: Pushed | None = None
        self._num_pushes = 0
        self._sampling = 0
        on_gpus = not run.device.startswith("cpu")
        if on_gpus:
            refuse_own_gpus(settings.address)
        devices = settings.devices_per_engine if on_gpus else (run.workers or 1)
        num_cpus, size = devices * settings.data_parallel, weight_bytes(folder)
        self._cluster = RayCluster(settings.address, num_cpus, size)
        self._spec = self._cluster.spec(of_one_engine(settings, run), folder, precision)
        bundles = self._cluster.bundles(devices, on_gpus=on_gpus)
        self.patience = Patience(self._cluster, bundles, settings.start_timeout_s)
        self._engines: list[_Engine] = []
        try:
            for number in range(settings.data_parallel):
                group = self._cluster.reserve(bundles)
                self._engines.append(_Engine(number, group, settings.max_restarts))
                self._start(self._engines[-1])
            while not self._is_any_up():
                self._next()
        except BaseException:
            self.close()
            raise

    def generate(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Sampled]:
        """Yield every request's completion, batch by batch, as engines end them.

        Raises StageError when an engine refuses a request, when the last one is gone for good, or
        when none has been up for too long.
        """
        self._sampling += 1
        num_engines = self.settings.data_parallel if self.settings.fills_slots else None
        waiting = deque(batches(requests, self._size, num_engines))
        for engine in self._engines:
            engine.batch = []  # of a sampling that was left; what comes of it is not used
        num_left = len(waiting)
        while num_left:
            for engine in self._engines:
                if engine.is_up and not engine.batch and waiting:
                    self._begin(engine, waiting.popleft(), sampling)
            engine, found = self._next()
            if found is None:
                if engine.batch:
                    waiting.appendleft(engine.batch)
                    engine.batch = []
            elif engine.batch and isinstance(found, list):
                engine.batch, num_left = [], num_left - 1
                yield from found

    def load_weights(self, tensors: Weights) -> None:
        """Put the weights of the policy where engines take them from before their next batch."""
        put, parts = self._cluster.ray.put, []
        self._pushed = None  # the store need not hold both
        self._num_pushes += 1
        self.pushed_bytes = 0
        for part in stored(tensors):
            parts.append(put(part))
            self.pushed_bytes += len(part)
        self._pushed = Pushed(self._num_pushes, parts)

    def sleep(self) -> None:
        """Engines have their devices to themselves."""

    def close(self) -> None:
        """End the engines and give their places back; who waits for them in another thread is told
        so."""
        for engine in self._engines:
            with suppress(self._cluster.ray.exceptions.RayError):
                if engine.actor is not None:
                    self._cluster.end(engine.actor)
                self._cluster.release(engine.group)
        self._engines = []
        self._answers.put(None)

    def _begin(self, engine: _Engine, batch: list[Request], sampling: SamplingParams) -> None:
        engine.batch = batch
        self._ask(engine, self._sampling, engine.actor.sample.remote(self._pushed, batch, sampling))

    def _start(self, engine: _Engine) -> None:
        engine.actor, engine.is_up = (
            self._cluster.start(engine.group, self._spec, PolicyActor),
            False,
        )
        self._ask(engine, 0, engine.actor.up.remote())

    def _ask(self, engine: _Engine, sampling: int, reply: Any) -> None:
        """Have an actor's reply put among the answers; it is told there too if it dies."""
        actor = engine.actor
        reply.future().add_done_callback(
            lambda future: self._answers.put(_Answer(engine, actor, sampling, future))
        )

    def _next(self) -> tuple[_Engine, list[Sampled] | Up | None]:
        """Wait for an engine: its completions of this sampling, that it is up, or None if it is
        lost. Raises StageError if it refuses, if the last one is gone, or if none is up in time."""
        while True:
            answer = self.patience.next_of(self._answers, self._is_any_up)
            if answer is None:
                raise StageError("the engines on the cluster were closed")
            engine = answer.engine
            if engine.actor is not answer.actor:
                continue  # of an earlier life
            try:
                found = answer.future.result()
            except self._cluster.ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, StageError):
                    raise StageError(f"engine {engine.number}: {error.cause}") from None
                self._lose(engine, f"{engine.place}: {last_line(error)}")
                return engine, None
            except self._cluster.ray.exceptions.RayError as error:
                self._lose(engine, f"{engine.place}: {last_line(error)}")
                return engine, None
            if isinstance(found, Up):
                self._versions.check(found.place, found.versions)
                engine.is_up, engine.place = True, found.place
                self.fetched_bytes += found.fetched_bytes
                return engine, found
            if answer.sampling == self._sampling:
                return engine, found

    def _lose(self, engine: _Engine, why: str) -> None:
        """Start an engine again, if it may be; raise StageError if it was the last one."""
        with suppress(self._cluster.ray.exceptions.RayError):
            self._cluster.end(engine.actor)
        text, engine.is_up = f"engine {engine.number} ({why}) is lost", False
        if engine.restarts_left:
            engine.restarts_left -= 1
            self._start(engine)
            self.losses.append(f"{text} and started again")
            return
        engine.actor = None
        text += (
            f" after {self.settings.max_restarts} restarts; run.generator.max_restarts allows no"
            " more"
        )
        self.losses.append(text)
        if all(each.actor is None for each in self._engines):
            raise StageError(text)

    def _is_any_up(self) -> bool:
        return any(engine.is_up for engine in self._engines)
