"""Several engines as actors on a Ray cluster, behind one stream of requests.

Each engine has a placement group for as long as the generator is open. An engine that dies leaves
its requests to the others and is started again in its group, which Ray places anew if its node is
gone. Nothing waits for all engines: each takes requests from the moment that it is up. Tokens
depend on prompt, sampling and seed, never on the engine.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1pipe.errors import StageError
from r1pipe.generate.protocol import Request, Sampled, SamplingParams, Weights
from r1pipe.generate.ray_actor import Failed, Made, Order, Reply, Up
from r1pipe.generate.ray_cluster import ClusterEngine, RayCluster, last_line
from r1pipe.generate.ray_versions import OneVersion
from r1pipe.generate.ray_waiting import Patience
from r1pipe.generate.scheduler import Answer, IsUp, ManyEngines, Restarting, Scheduler
from r1pipe.generator_settings import SampleRun
from r1pipe.settings import Precision

if TYPE_CHECKING:
    from r1pipe.generate.clusters import ClusterBackend


@dataclass
class _Engine(ClusterEngine):
    outbox: list[Request] = field(default_factory=list)


class RayGenerator(ManyEngines):
    """One stream of requests over the engines that are up."""

    def __init__(
        self, settings: ClusterBackend, folder: Path, run: SampleRun, precision: Precision
    ) -> None:
        """Start `data_parallel` engines; return as soon as the first is up.

        Raises StageError if none can be.
        """
        self.settings = settings
        self.losses: list[str] = []
        self.fetched_bytes = 0
        """Of the model, by all nodes that do not see it."""
        self._slots = settings.concurrency(run.max_batch)
        self._events: queue.Queue[tuple[_Engine, Any, Future[list[Reply]]]] = queue.Queue()
        self._answers: deque[tuple[int, Answer]] = deque()
        self._versions = OneVersion()
        self._number = 0
        self._sampling = SamplingParams()
        self._engines: list[_Engine] = []
        on_gpus = not run.device.startswith("cpu")
        devices = settings.devices_per_engine if on_gpus else (run.workers or 1)
        devices = max(devices, settings.devices_per_engine)
        self._cluster = RayCluster(settings.address, devices * settings.data_parallel)
        self._spec = self._cluster.spec(of_one_engine(settings, run), folder, precision)
        self._bundles = self._cluster.bundles(devices, on_gpus=on_gpus)
        self.patience = Patience(self._cluster, self._bundles, settings.start_timeout_s)
        try:
            self._check_room()
            for number in range(settings.data_parallel):
                group = self._cluster.reserve(self._bundles)
                engine = _Engine(number, group, settings.max_restarts)
                self._engines.append(engine)
                self._start(engine)
            self._await_first()
        except BaseException:
            self.close()
            raise

    @property
    def num_slots(self) -> int:
        """Completions that are sampled together by the engines that are up or will be."""
        return self._slots * sum(not engine.is_gone for engine in self._engines)

    def stream(
        self, requests: Iterator[Request | None], sampling: SamplingParams
    ) -> Iterator[Sampled]:
        """Yield every request's completion once, as it finishes anywhere; take new ones meanwhile.

        Raises StageError when an engine refuses a request, when the last one is gone for good, or
        when none has been up for too long.
        """
        self._number, self._sampling = self._number + 1, sampling
        scheduler = Scheduler([self._slots] * len(self._engines))
        scheduler.alive = {each.number for each in self._engines if each.is_up}
        there = {each.number for each in self._engines if not each.is_gone}
        scheduler.starting = there - scheduler.alive
        if not there:
            raise StageError("no engine is left on the cluster; the stage can be resumed")
        yield from self.over_engines(scheduler, requests)

    def send(self, engine: int, request: Request) -> None:
        """Have a request sent with the next ones of its engine."""
        self._engines[engine].outbox.append(request)

    def answer(self) -> tuple[int, Answer]:
        """Send what waits to be sent; wait for the next completion, or change, of any engine."""
        while not self._answers:
            self._flush()
            self._hear(*self.patience.next_of(self._events, self._is_any_up))
        return self._answers.popleft()

    def give_up(self, engine: int, why: Exception, num_moved: int) -> None:
        """Forget what was not sent to a lost engine."""
        self._engines[engine].outbox = []
        self.losses.append(f"{why}; {num_moved} requests went to others")

    def _flush(self) -> None:
        for engine in self._engines:
            if engine.outbox and engine.is_up:
                requests, engine.outbox = engine.outbox, []
                self._order(engine, Order(self._number, self._sampling, requests))

    def _order(self, engine: _Engine, order: Order) -> None:
        """Send an order; if the actor is gone, its replies will say so."""
        engine.actor.take.options(concurrency_group="orders").remote(order)

    def _start(self, engine: _Engine) -> None:
        engine.actor = self._cluster.start(engine.group, self._spec)
        self._listen(engine)

    def _listen(self, engine: _Engine) -> None:
        """Have the actor's next replies put among the events; it is told there too if it dies."""
        actor = engine.actor
        replies = actor.collect.options(concurrency_group="replies").remote().future()
        replies.add_done_callback(lambda future: self._events.put((engine, actor, future)))

    def _hear(self, engine: _Engine, actor: Any, future: Future[list[Reply]]) -> None:
        """Take an actor's replies."""
        if engine.actor is not actor:
            return  # of an earlier life
        try:
            replies = future.result()
        except self._cluster.ray.exceptions.RayError as error:
            self._lose(engine, f"{engine.place}: {last_line(error)}")
            return
        answers = partial(map, lambda answer: (engine.number, answer))
        for reply in replies:
            if isinstance(reply, Failed):
                if reply.is_refusal:
                    raise StageError(f"engine {engine.number}: {reply.why}")
                self._lose(engine, reply.why)
                return
            if isinstance(reply, Up):
                self._versions.check(reply.place, reply.versions)
                self._slots = reply.num_slots
                self.fetched_bytes += reply.fetched_bytes
                engine.is_up, engine.place = True, reply.place
                self._answers.extend(answers([IsUp()]))
            elif isinstance(reply, Made) and reply.number == self._number:
                self._answers.extend(answers([reply.sampled]))
        self._listen(engine)

    def _lose(self, engine: _Engine, why: str) -> None:
        """Start an engine again, if it may be; else it is gone."""
        text = self._cluster.lose(engine, why, self.settings.max_restarts)
        if not engine.is_gone:
            self._start(engine)
        said = StageError(text) if engine.is_gone else Restarting(text)
        self._answers.append((engine.number, said))

    def _check_room(self) -> None:
        """Raise StageError if a cluster that cannot grow has too few GPUs for all engines."""
        if not self._cluster.is_local:
            return
        wanted = sum(bundle.get("GPU", 0) for bundle in self._bundles) * self.settings.data_parallel
        there = self._cluster.resources.get("GPU", 0)
        if wanted > there:
            raise StageError(
                f"run.generator: data_parallel x tensor_parallel is {wanted:g} GPUs, and this"
                f" machine has {there:g}; lower them, or give the address of a cluster"
            )

    def _await_first(self) -> None:
        """Wait until an engine is up; raise StageError if none will be, or after too long."""
        while not self._is_any_up():
            self._hear(*self.patience.next_of(self._events, self._is_any_up))
            if all(engine.is_gone for engine in self._engines):
                raise StageError(str(self._answers[-1][1]))
        self.losses += [str(said) for _, said in self._answers if isinstance(said, Exception)]
        self._answers.clear()

    def _is_any_up(self) -> bool:
        return any(engine.is_up for engine in self._engines)

    def settle(self) -> None:
        """Have all engines give up what is under way; what they still say of it is not used."""
        self._answers.clear()
        for engine in self._engines:
            engine.outbox = []
            if engine.is_up:
                self._order(engine, Order(self._number, self._sampling))
        self._number += 1

    def load_weights(self, tensors: Weights) -> None:
        """These engines sample a finished model; `RayPolicy` has those of one in training."""
        raise StageError("these engines take no weights")

    def sleep(self) -> None:
        """Engines have their GPUs to themselves."""

    def close(self) -> None:
        """End the engines, and give their places back; the connection stays for further stages."""
        self._cluster.end(self._engines)
        self._engines = []


def of_one_engine(settings: ClusterBackend, run: SampleRun) -> str:
    """Return the settings of one engine on one machine, as JSON."""
    alone = {"cluster": None, "address": None, "weight_transfer": None, "data_parallel": 1}
    own = SampleRun(device=run.device, workers=run.workers or 1, max_batch=run.max_batch)
    return own.model_copy(update={"generator": settings.model_copy(update=alone)}).model_dump_json()
