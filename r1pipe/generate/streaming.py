"""Sampling units of requests without ever waiting for a unit's last completion.

A unit is what a stage's journal counts. A generator that streams is given the requests of the next
units while the last ones of earlier units are sampled. Other generators are given a unit at a time,
so that their batches, and with them their rounding, are those of the unit.
"""

# a request's way: waiting -> under way -> answered; with its unit, it may be put back or dropped

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import count

from r1pipe.errors import StageError
from r1pipe.generate.failures import SamplingFailed
from r1pipe.generate.following import Kept, Ticker, waited_for
from r1pipe.generate.protocol import (
    Generator,
    Request,
    Sampled,
    SamplingParams,
    StreamingGenerator,
)
from r1pipe.stage import Context


@dataclass
class _Unit:
    name: str
    seeds: dict[int, int]
    """Of the requests, by their index in the unit."""
    left: set[int]
    """Indices without a completion."""
    kept: Kept
    number: int = 0
    """Of the next batch to keep."""
    unkept: list[Sampled] = field(default_factory=list)


@dataclass(frozen=True)
class UnitFailed:
    """A unit that cannot be sampled now; `failure` says why."""

    failure: SamplingFailed


class Stream:
    """Takes units, gives completions as they finish.

    Batches of a unit's completions go into the journal `batches`, where a resumed stage finds them.
    """

    def __init__(
        self, generator: Generator, context: Context, sampling: SamplingParams, batch: int
    ) -> None:
        """`batch` is how many completions of a unit are kept together."""
        self.generator = generator
        self.context = context
        self.sampling = sampling
        self.batch = batch
        self.is_streaming = isinstance(generator, StreamingGenerator)
        self.num_slots = generator.num_slots if isinstance(generator, StreamingGenerator) else 0
        self._journal = context.journal("batches")
        self._units: dict[str, _Unit] = {}
        self._serial = count()
        self._waiting: deque[tuple[str, Request]] = deque()
        self._under_way: dict[int, tuple[str, Request]] = {}
        self._there: deque[tuple[str, Sampled]] = deque()
        self._running: Iterator[Sampled] | None = None
        self._ticker: Ticker | None = None

    @property
    def num_open(self) -> int:
        """Requests that have no completion yet, and completions that were not taken."""
        return len(self._waiting) + len(self._under_way) + len(self._there)

    @property
    def wants_units(self) -> bool:
        """Whether the generator could soon be without a request."""
        return len(self._waiting) < self.num_slots if self.is_streaming else not self.num_open

    def add(self, name: str, requests: Sequence[Request]) -> None:
        """Add a unit, whose indices are all different; the same name means the same requests."""
        seeds = {request.index: request.seed for request in requests}
        kept = Kept(self._journal, name, self.batch)
        unit = self._units[name] = _Unit(name, seeds, set(seeds), kept)
        for place, batch in kept.batches(seeds):
            unit.number = place + 1
            for sampled in batch:
                if sampled.index in unit.left:
                    unit.left.remove(sampled.index)
                    self._there.append((name, sampled))
        self._waiting.extend((name, r) for r in requests if r.index in unit.left)

    def take(self) -> tuple[str, Sampled | UnitFailed]:
        """Return the next completion of any unit with its unit's name; some request must be open.

        The completion's index is that in the unit. Instead, a unit may have failed: then nothing
        more of it follows. Raises Interrupted as soon as a stop is asked for.
        """
        if self._there:
            return self._there.popleft()
        try:
            sampled = self._next()
        except SamplingFailed as failure:
            self._end()
            return self._failed(failure)
        if sampled.index not in self._under_way:
            raise StageError("the generator answered a request twice, or one that it never got")
        name, request = self._under_way.pop(sampled.index)
        sampled = replace(sampled, index=request.index)
        self._keep(self._units[name], sampled)
        if self._ticker is not None:
            self._ticker.done += 1
        return name, sampled

    def close(self) -> None:
        """Give up what is under way."""
        self._end()

    def _next(self) -> Sampled:
        """Return the generator's next completion; start the generator if it has ended."""
        for _ in range(2):
            if self._running is None:
                self._running = self._started()
                self._ticker = Ticker(self.context, self.num_open, 0)
            if self._ticker is not None:
                self._ticker.total = self._ticker.done + self.num_open
            sampled = waited_for(self.context, self._running)
            if sampled is not None:
                return sampled
            self._end()
        missing = len(self._under_way)
        raise StageError(f"the generator ended without {missing} completions it was asked for")

    def _started(self) -> Iterator[Sampled]:
        if isinstance(self.generator, StreamingGenerator):
            return self.generator.stream(self._asked(), self.sampling)
        requests = [request for request in self._asked() if request is not None]
        return iter(self.generator.generate(requests, self.sampling))

    def _asked(self) -> Iterator[Request | None]:
        """Yield requests under numbers of their own; None where there is none at present."""
        while self._waiting or (self.is_streaming and self._under_way):
            if not self._waiting:
                yield None
                continue
            name, request = self._waiting.popleft()
            number = next(self._serial)
            self._under_way[number] = name, request
            yield replace(request, index=number)

    def _keep(self, unit: _Unit, sampled: Sampled) -> None:
        unit.left.discard(sampled.index)
        unit.unkept.append(sampled)
        if len(unit.unkept) == self.batch:
            unit.kept.append(unit.number, unit.unkept, unit.seeds)
            unit.number, unit.unkept = unit.number + 1, []
        if not unit.left:
            del self._units[unit.name]

    def _failed(self, failure: SamplingFailed) -> tuple[str, UnitFailed]:
        """Drop the unit of the request that failed; ask for the others again."""
        known = self._under_way.get(-1 if failure.index is None else failure.index)
        name = known[0] if known else next(iter(self._under_way.values()))[0]
        again = [pair for pair in self._under_way.values() if pair[0] != name]
        self._under_way = {}
        self._waiting = deque([*again, *(pair for pair in self._waiting if pair[0] != name)])
        self._there = deque(pair for pair in self._there if pair[0] != name)
        del self._units[name]
        return name, UnitFailed(failure)

    def _end(self) -> None:
        if isinstance(self.generator, StreamingGenerator):
            while self.generator.losses:
                self.context.warn(self.generator.losses.pop(0))
        running, self._running = self._running, None
        if running is not None and hasattr(running, "close"):
            running.close()
        if self._ticker is not None:
            self._ticker.close()
            self._ticker = None


@contextmanager
def streaming(
    generator: Generator, context: Context, sampling: SamplingParams, batch: int
) -> Iterator[Stream]:
    """Give a stream over a generator; what is under way at the end is given up."""
    with closing(Stream(generator, context, sampling, batch)) as stream:
        yield stream
