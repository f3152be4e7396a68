"""One engine on a Ray cluster, in a process of its own (`r1pipe.generate.ray_engines` has the other
side).

Orders go in and replies come out, each in their order. All that concerns the engine is done in one
thread, which alone has it; Ray's threads only pass on what is said.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeAlias

from r1pipe.errors import StageError
from r1pipe.generate.backends import open_generator
from r1pipe.generate.protocol import (
    Generator,
    Request,
    Sampled,
    SamplingParams,
    StreamingGenerator,
)
from r1pipe.generate.ray_files import ModelFiles, model_here
from r1pipe.generate.ray_versions import versions
from r1pipe.generate.vllm_setup import is_spanning
from r1pipe.generator_settings import SampleRun
from r1pipe.settings import Precision


@dataclass(frozen=True)
class EngineSpec:
    """What an actor builds its engine from."""

    run: str
    """A `SampleRun` as JSON; its generator is one engine on one machine."""
    folder: str
    """The model's, as the run has it."""
    precision: Precision
    files: ModelFiles | None = None
    """What is in it, for a node that may not see it."""

    @contextmanager
    def model_here(self) -> Iterator[tuple[Path, int]]:
        """Give the model's folder on this node, and how many bytes were fetched for it."""
        if self.files is None:
            yield Path(self.folder), 0
            return
        with model_here(self.files, is_spanning=is_spanning()) as found:
            yield found


@dataclass(frozen=True)
class Order:
    """Requests of one sampling; none end it, and give up what is under way."""

    number: int
    """Of the sampling."""
    sampling: SamplingParams
    requests: Sequence[Request] = ()


@dataclass(frozen=True)
class Up:
    """The engine is built."""

    place: str
    """Where it is, for messages."""
    num_slots: int
    versions: Mapping[str, str]
    fetched_bytes: int = 0
    """Of the model, which the node did not have."""
    num_receivers: int = 1
    """Processes that take part in a broadcast of weights."""


@dataclass(frozen=True)
class Failed:
    """The engine is no more."""

    why: str
    is_refusal: bool
    """Whether every other engine would say the same, since the request or the model is wrong."""


@dataclass(frozen=True)
class Made:
    """A completion."""

    number: int
    """Of the sampling that it belongs to."""
    sampled: Sampled


Reply: TypeAlias = Up | Failed | Made


class EngineActor:
    """The actor: takes orders without waiting for the engine."""

    def __init__(self, spec: EngineSpec) -> None:
        self._orders: SimpleQueue[Order] = SimpleQueue()
        self._replies: SimpleQueue[Reply] = SimpleQueue()
        threading.Thread(target=self._serve, args=(spec,), name="engine", daemon=True).start()

    def take(self, order: Order) -> None:
        """Take an order."""
        self._orders.put(order)

    def collect(self) -> list[Reply]:
        """Wait for replies; return all that are there."""
        found = [self._replies.get()]
        while True:
            try:
                found.append(self._replies.get_nowait())
            except Empty:
                return found

    def _serve(self, spec: EngineSpec) -> None:
        """Build the engine and follow orders, until the process ends or the engine breaks."""
        place = f"{socket.gethostname()}, process {os.getpid()}"
        try:
            run = SampleRun.model_validate_json(spec.run)
            with (
                spec.model_here() as (folder, fetched),
                open_generator(folder, run, spec.precision) as (generator, _),
            ):
                slots = run.generator.concurrency(run.max_batch)
                if isinstance(generator, StreamingGenerator):
                    slots = generator.num_slots
                self._replies.put(Up(place, slots, versions(), fetched))
                while True:
                    self._follow(generator, slots)
        except StageError as error:
            self._replies.put(Failed(str(error), is_refusal=True))
        except BaseException as error:  # noqa: BLE001 - whatever it is, the engine is lost by it
            self._replies.put(Failed(f"{place}: {type(error).__name__}: {error}", is_refusal=False))

    def _follow(self, generator: Generator, slots: int) -> None:
        """Sample what one sampling asks for, until it is ended."""
        first = self._orders.get()
        if not first.requests:
            return
        waiting, under_way = deque(first.requests), 0

        def asked() -> Iterator[Request | None]:
            nonlocal under_way
            while True:
                while not waiting:
                    try:
                        order = self._orders.get(block=under_way == 0)
                    except Empty:
                        yield None
                        continue
                    if not order.requests:
                        raise _EndError
                    waiting.extend(order.requests)
                under_way += 1
                yield waiting.popleft()

        try:
            for sampled in streamed(generator, asked(), first.sampling, slots):
                under_way -= 1
                self._replies.put(Made(first.number, sampled))
        except _EndError:
            return


class _EndError(Exception):
    """Nobody wants more completions of this sampling."""


def streamed(
    generator: Generator, requests: Iterator[Request | None], sampling: SamplingParams, size: int
) -> Iterator[Sampled]:
    """Yield completions of requests as they come, up to `size` together where a generator must have
    all of them before it begins."""
    if isinstance(generator, StreamingGenerator):
        yield from generator.stream(requests, sampling)
        return
    while batch := _next_batch(requests, size):
        yield from generator.generate(batch, sampling)


def _next_batch(requests: Iterator[Request | None], size: int) -> list[Request]:
    batch: list[Request] = []
    for request in requests:
        if request is None:
            break
        batch.append(request)
        if len(batch) == size:
            break
    return batch
