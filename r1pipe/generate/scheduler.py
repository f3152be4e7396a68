"""Several engines behind one stream of requests: replicas of vLLM, or servers.

Each engine holds a few requests more than it has slots, so that none of them waits to be heard. A
request goes to the engine with the largest share of its room free, but follows the one before it if
their prompts are equal: the samples of a prompt share its cache. What a lost engine held goes to
the others. Nothing here knows time or processes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeAlias

from r1pipe.generate.failures import SamplingFailed
from r1pipe.generate.protocol import Request, Sampled

AHEAD_FRAC = 0.25
"""Requests beyond its slots that an engine holds, as a share of them."""

Answer: TypeAlias = Sampled | Exception


class Engines(Protocol):
    """What samples, by number. An engine answers each request once, in any order."""

    def send(self, engine: int, request: Request) -> None:
        """Hand over a request, without waiting; a failure to do so is an answer."""

    def answer(self) -> tuple[int, Answer]:
        """Wait for the next answer: an engine's completion, or why it is lost."""

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

    def take_back(self, engine: int, index: int) -> bool:
        """Note that a request was answered; return whether this engine was to answer it."""
        return self.held[engine].pop(index, None) is not None

    def lose(self, engine: int) -> list[Request]:
        """Return the requests of an engine that is no more, for others to answer."""
        self.alive.discard(engine)
        moved, self.held[engine] = list(self.held[engine].values()), {}
        return moved

    def _room(self, engine: int) -> float:
        return 1 - len(self.held[engine]) / self.capacities[engine]


def over_engines(
    scheduler: Scheduler, engines: Engines, requests: Iterator[Request | None]
) -> Iterator[Sampled]:
    """Yield every request's completion once, as `StreamingGenerator.stream` says.

    An engine that is lost leaves its requests to the others. With the last one, what it holds is
    waited for as far as it comes, and then its failure is raised.
    """
    again, failure = deque[Request](), None
    while True:
        if failure is None:
            _fill(scheduler, engines, again, requests)
        if scheduler.is_idle:
            break
        engine, answer = engines.answer()
        if isinstance(answer, Sampled):
            if scheduler.take_back(engine, answer.index):
                yield answer
        elif scheduler.alive > {engine}:
            moved = scheduler.lose(engine)
            engines.give_up(engine, answer, len(moved))
            again.extend(moved)
        elif engine in scheduler.alive:
            failure = failure or answer
            index = answer.index if isinstance(answer, SamplingFailed) else None
            if index is None or not scheduler.take_back(engine, index):
                break  # it answers nothing any more
    if failure is not None:
        raise failure


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
