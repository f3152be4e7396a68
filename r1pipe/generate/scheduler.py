"""Several engines behind one stream of requests: replicas of vLLM, or servers.

Each engine holds a few requests more than it has slots, so that none of them waits to be heard. A
request goes to the engine with the largest share of its room free, but follows the one before it if
their prompts are equal: the samples of a prompt share its cache. What a lost engine held goes to
the others. Nothing here knows time or processes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeAlias

from r1pipe.errors import StageError
from r1pipe.generate.failures import SamplingFailed
from r1pipe.generate.protocol import Request, Sampled, SamplingParams, in_prompt_order

AHEAD_FRAC = 0.25
"""Requests beyond its slots that an engine holds, as a share of them."""


class Restarting(Exception):  # noqa: N818 - an answer, which nobody raises
    """An engine is lost, and is started again: it will answer that it `IsUp`."""


class IsUp:
    """An engine that was starting can be given requests."""


Answer: TypeAlias = Sampled | Exception | IsUp


class Engines(Protocol):
    """What samples, by number. An engine answers each request once, in any order."""

    def send(self, engine: int, request: Request) -> None:
        """Hand over a request, without waiting; a failure to do so is an answer."""

    def answer(self) -> tuple[int, Answer]:
        """Wait for the next answer: an engine's completion, why it is lost, or that it is up."""

    def give_up(self, engine: int, why: Exception, num_moved: int) -> None:
        """Leave a lost engine, of which so many requests go to others; what it may still answer is
        not used."""


class Scheduler:
    """Who holds which requests. Indices of requests under way differ."""

    def __init__(self, slots: Sequence[int]) -> None:
        """`slots` are the completions that each engine samples together."""
        self.capacities = [count + max(1, int(count * AHEAD_FRAC)) for count in slots]
        self.held: list[dict[int, Request]] = [{} for _ in slots]
        self.alive = set(range(len(slots)))
        self.starting: set[int] = set()
        """Engines that can be given requests later."""
        self._last: tuple[tuple[int, ...], int] = (), -1

    @property
    def is_idle(self) -> bool:
        """Whether no engine holds a request."""
        return not any(self.held)

    @property
    def has_room(self) -> bool:
        """Whether an engine can hold one more."""
        return any(self._room(engine) > 0 for engine in self.alive)

    def place(self, request: Request) -> int:
        """Return the engine that gets a request; there must be room."""
        prompt, engine = self._last
        if prompt != request.prompt_ids or engine not in self.alive or self._room(engine) <= 0:
            engine = max(self.alive, key=lambda each: (self._room(each), -each))
        self._last = request.prompt_ids, engine
        self.held[engine][request.index] = request
        return engine

    def knows(self, engine: int) -> bool:
        """Whether an engine answers, or will."""
        return engine in self.alive | self.starting

    def knows_others(self, engine: int) -> bool:
        """Whether an engine beside this one answers, or will."""
        return bool((self.alive | self.starting) - {engine})

    def take_back(self, engine: int, index: int) -> bool:
        """Note that a request was answered; return whether this engine was to answer it."""
        return self.held[engine].pop(index, None) is not None

    def lose(self, engine: int, *, restarts: bool) -> list[Request]:
        """Return the requests of an engine that is gone, for others, or later for itself."""
        self.alive.discard(engine)
        (self.starting.add if restarts else self.starting.discard)(engine)
        moved, self.held[engine] = list(self.held[engine].values()), {}
        return moved

    def _room(self, engine: int) -> float:
        return 1 - len(self.held[engine]) / self.capacities[engine]


class ManyEngines(ABC):
    """A generator over several engines, which are `Engines` themselves."""

    def generate(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Sampled]:
        """Yield every request's completion once, as it finishes anywhere."""
        ordered: list[Request] = sorted(requests, key=in_prompt_order)
        yield from self.stream(iter(ordered), sampling)

    def over_engines(
        self, scheduler: Scheduler, requests: Iterator[Request | None]
    ) -> Iterator[Sampled]:
        """Yield completions of a stream; close all if it fails, and give up what is left of it."""
        try:
            yield from over_engines(scheduler, self, requests)
        except StageError:
            self.close()
            raise
        finally:
            self.settle()

    @abstractmethod
    def stream(
        self, requests: Iterator[Request | None], sampling: SamplingParams
    ) -> Iterator[Sampled]:
        """Yield completions, as `StreamingGenerator.stream` says."""

    @abstractmethod
    def send(self, engine: int, request: Request) -> None:
        """Hand over a request, as `Engines` says."""

    @abstractmethod
    def answer(self) -> tuple[int, Answer]:
        """Wait for the next answer, as `Engines` says."""

    @abstractmethod
    def give_up(self, engine: int, why: Exception, num_moved: int) -> None:
        """Leave a lost engine, as `Engines` says."""

    @abstractmethod
    def settle(self) -> None:
        """Give up what is under way, at the end of a stream."""

    @abstractmethod
    def close(self) -> None:
        """Free memory and processes."""


def over_engines(
    scheduler: Scheduler, engines: Engines, requests: Iterator[Request | None]
) -> Iterator[Sampled]:
    """Yield every request's completion once, as `StreamingGenerator.stream` says.

    An engine that is lost leaves its requests to the others, and takes new ones if it is started
    again. With the last one, what it holds is waited for as far as it comes, and then its failure
    is raised.
    """
    again, failure = deque[Request](), None
    while True:
        _fill(scheduler, engines, again, requests)
        if scheduler.is_idle and (scheduler.alive or failure):
            break
        engine, answer = engines.answer()
        if isinstance(answer, Sampled):
            if scheduler.take_back(engine, answer.index):
                yield answer
        elif isinstance(answer, IsUp):
            scheduler.starting.discard(engine)
            scheduler.alive.add(engine)
        elif not scheduler.knows(engine):
            continue  # it was given up
        elif isinstance(answer, Restarting) or scheduler.knows_others(engine):
            again.extend(_moved(scheduler, engines, engine, answer))
        else:
            failure, requests = failure or answer, iter(())
            again.clear()
            index = answer.index if isinstance(answer, SamplingFailed) else None
            if index is None or not scheduler.take_back(engine, index):
                break  # it answers nothing any more
    if failure is not None:
        raise failure


def _moved(scheduler: Scheduler, engines: Engines, engine: int, why: Exception) -> list[Request]:
    """Give a lost engine up; return its requests."""
    moved = scheduler.lose(engine, restarts=isinstance(why, Restarting))
    engines.give_up(engine, why, len(moved))
    return moved


def _fill(
    scheduler: Scheduler,
    engines: Engines,
    again: deque[Request],
    requests: Iterator[Request | None],
) -> None:
    """Hand out requests as long as there are some and an engine has room."""
    while scheduler.has_room:
        request = again.popleft() if again else next(requests, None)
        if request is None:
            return
        engines.send(scheduler.place(request), request)
