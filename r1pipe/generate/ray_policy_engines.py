"""The engines of a policy in training on a Ray cluster: which are up, what they answer, and which
are lost."""

from __future__ import annotations

import queue
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from r1pipe.errors import StageError
from r1pipe.generate.protocol import Request
from r1pipe.generate.ray_actor import EngineSpec, Up
from r1pipe.generate.ray_cluster import ClusterEngine, RayCluster, last_line
from r1pipe.generate.ray_policy_actor import PolicyActor
from r1pipe.generate.ray_versions import OneVersion
from r1pipe.generate.ray_waiting import Patience
from r1pipe.generate.weight_group import BrokenGroupError

if TYPE_CHECKING:
    from r1pipe.generate.clusters import ClusterBackend


@dataclass
class PolicyEngine(ClusterEngine):
    """One engine, whatever actor it is at present."""

    batch: list[Request] = field(default_factory=list)
    """What it samples."""
    num_receivers: int = 1
    """Processes that take part in a broadcast of weights."""
    received: int = 0
    """The last push that was broadcast to it."""


@dataclass(frozen=True)
class Answer:
    """Of an actor, and to which call."""

    engine: PolicyEngine
    actor: Any
    call: int
    """The number that the call was given, or 0 where the engine was built."""
    future: Future[Any]


@dataclass(frozen=True)
class Heard:
    """What an engine answered; it is lost if that is None."""

    engine: PolicyEngine
    call: int
    found: Any
    has_broken_off: bool = False
    """Whether it is lost only since another member of its group is."""


class PolicyEngines:
    """`data_parallel` engines, which are started again when they die."""

    def __init__(
        self,
        settings: ClusterBackend,
        cluster: RayCluster,
        spec: EngineSpec,
        bundles: list[dict[str, float]],
    ) -> None:
        """Start them; return as soon as the first is up. Raises StageError if none can be."""
        self.settings = settings
        self.cluster = cluster
        self.losses: list[str] = []
        """Engines that were lost while others took over, and how, that nobody was told of yet."""
        self.last_loss = ""
        self.fetched_bytes = 0
        """Of the model, by all nodes that do not see it."""
        self.patience = Patience(cluster, bundles, settings.start_timeout_s)
        self.all: list[PolicyEngine] = []
        self._spec = spec
        self._answers: queue.Queue[Answer | None] = queue.Queue()
        self._versions = OneVersion()
        try:
            for number in range(settings.data_parallel):
                group = cluster.reserve(bundles)
                self.all.append(PolicyEngine(number, group, settings.max_restarts))
                self._start(self.all[-1])
            while not self.up():
                self.wait()
        except BaseException:
            self.close()
            raise

    def up(self) -> list[PolicyEngine]:
        """Return the engines that can be asked."""
        return [engine for engine in self.all if engine.is_up]

    def starting(self) -> list[PolicyEngine]:
        """Return the engines that are not up yet, or not up again."""
        return [engine for engine in self.all if not engine.is_up and not engine.is_gone]

    def ask(self, engine: PolicyEngine, call: int, reply: Any) -> None:
        """Have an actor's reply put among the answers; it is told there too if it dies."""
        actor = engine.actor
        reply.future().add_done_callback(
            lambda future: self._answers.put(Answer(engine, actor, call, future))
        )

    def wait(self) -> Heard:
        """Wait for an engine's answer: what it gave, that it is up, or that it is lost.

        Raises StageError if it refuses, if the last one is gone, or if none is up in time.
        """
        while True:
            answer = self.patience.next_of(self._answers, lambda: bool(self.up()))
            if (heard := self._heard(answer)) is not None:
                return heard

    def look(self) -> Heard | None:
        """Return an answer that is there, as `wait` does; None if there is none."""
        while True:
            try:
                answer = self._answers.get_nowait()
            except queue.Empty:
                return None
            if (heard := self._heard(answer)) is not None:
                return heard

    def _heard(self, answer: Answer | None) -> Heard | None:
        """Return what an answer says; None of one that an engine's earlier life gave."""
        if answer is None:
            raise StageError("the engines on the cluster were closed")
        engine, errors = answer.engine, self.cluster.ray.exceptions
        if engine.actor is not answer.actor:
            return None
        try:
            found = answer.future.result()
        except errors.RayTaskError as error:
            if isinstance(error.cause, StageError):
                raise StageError(f"engine {engine.number}: {error.cause}") from None
            self._lose(engine, f"{engine.place}: {last_line(error)}")
            return Heard(engine, answer.call, None, isinstance(error.cause, BrokenGroupError))
        except errors.RayError as error:
            self._lose(engine, f"{engine.place}: {last_line(error)}")
            return Heard(engine, answer.call, None)
        if isinstance(found, Up):
            self._versions.check(found.place, found.versions)
            engine.is_up, engine.place = True, found.place
            engine.num_receivers = found.num_receivers
            self.fetched_bytes += found.fetched_bytes
        return Heard(engine, answer.call, found)

    def _start(self, engine: PolicyEngine) -> None:
        engine.received = 0
        engine.actor = self.cluster.start(engine.group, self._spec, PolicyActor)
        self.ask(engine, 0, engine.actor.up.remote())

    def _lose(self, engine: PolicyEngine, why: str) -> None:
        """Start an engine again, if it may be; raise StageError if it was the last one."""
        text = self.cluster.lose(engine, why, self.settings.max_restarts)
        self.losses.append(text)
        self.last_loss = text
        if not engine.is_gone:
            self._start(engine)
        elif all(each.is_gone for each in self.all):
            raise StageError(text)

    def close(self) -> None:
        """End the engines and give their places back; who waits for them in another thread is told
        so."""
        self.cluster.end(self.all)
        self.all = []
        self._answers.put(None)
