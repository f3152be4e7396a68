"""Sampling as a stage does it: shown while it goes on, left at once on Ctrl-C, kept by batches."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from itertools import count

from r1pipe.errors import Interrupted
from r1pipe.generate.protocol import Generator, GeneratorWrapper, Request, Sampled, SamplingParams
from r1pipe.keys import JsonObject
from r1pipe.records import FinishReason
from r1pipe.stage import Context, Journal

SHOWN_EVERY_S = 1.0


@dataclass(frozen=True)
class Kept:
    """Where whole batches of completions are kept until the unit that they belong to is."""

    journal: Journal
    unit: str
    """The same name always means the same requests."""
    size: int
    """Completions that are written together: a batch of the generator, so that what is left of a
    unit falls into the very batches that it would have had."""

    def batches(self, seeds: Mapping[int, int]) -> Iterator[tuple[int, list[Sampled]]]:
        """Yield the batches that are there with their numbers, without rows of other requests.

        `seeds` are those of the requests, by index.
        """
        done = self.journal.done()
        for number in count():
            if (name := self._name(number)) not in done:
                return
            rows = map(json.loads, self.journal.lines(name).splitlines())
            own = [row for row in rows if seeds.get(row["index"]) == row.pop("seed")]
            yield number, [_sampled(row) for row in own]

    def append(self, number: int, batch: Sequence[Sampled], seeds: Mapping[int, int]) -> None:
        """Keep one batch."""
        rows = [_row(sampled) | {"seed": seeds[sampled.index]} for sampled in batch]
        self.journal.append(self._name(number), rows)

    def _name(self, number: int) -> str:
        return f"{self.unit}/{number}"


class Followed(GeneratorWrapper):
    """A generator that is followed by its stage; what it samples is what the generator does."""

    def __init__(self, generator: Generator, context: Context, kept: Kept | None = None) -> None:
        super().__init__(generator)
        self.context = context
        self.kept = kept

    def generate(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Sampled]:
        """Yield every request's completion; those of batches that were kept come first.

        Raises Interrupted when a stop is asked for: what is not kept is lost. Ranks that sample a
        share each call it together, and stop together once each of them is done or has stopped.
        """
        stop: Interrupted | None = None
        try:
            yield from self._generate(requests, sampling)
        except Interrupted as error:
            stop = error
        if any(self.context.ranks.gather(stop is not None)):
            raise stop or Interrupted("stopped on another rank")

    def _generate(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Sampled]:
        total, number, there = len(requests), 0, set[int]()
        seeds = {request.index: request.seed for request in requests}
        for place, batch in self.kept.batches(seeds) if self.kept else ():
            number = place + 1
            there.update(sampled.index for sampled in batch)
            yield from batch
        left = [request for request in requests if request.index not in there]
        if not left:
            return
        waiting: list[Sampled] = []
        with self._shown(total, total - len(left)) as shown:
            completions = iter(self.generator.generate(left, sampling))
            while (sampled := waited_for(self.context, completions)) is not None:
                shown.done += 1
                waiting.append(sampled)
                if self.kept is not None and len(waiting) == self.kept.size:
                    self.kept.append(number, waiting, seeds)
                    number, waiting = number + 1, []
                yield sampled

    @contextmanager
    def _shown(self, total: int, done: int) -> Iterator[Ticker]:
        ticker = Ticker(self.context, total, done)
        with closing(ticker):
            yield ticker


def waited_for(context: Context, sampled: Iterator[Sampled]) -> Sampled | None:
    """Return the next completion, if any; a signal ends only the waiting for it, never what is done
    with it."""
    with context.interruptible():
        return next(sampled, None)


def _row(sampled: Sampled) -> JsonObject:
    """Return a completion's fields; `dataclasses.asdict` would copy every token by itself."""
    return {field.name: getattr(sampled, field.name) for field in fields(sampled)}


def _sampled(row: JsonObject) -> Sampled:
    return Sampled(**{**row, "finish_reason": FinishReason(row["finish_reason"])})


class Ticker:
    """Shows how many completions there are, also while none comes."""

    def __init__(self, context: Context, total: int, done: int) -> None:
        self.context = context
        self.total = total
        self.done = done
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="r1pipe-ticker", daemon=True)
        self._thread.start()

    def _tick(self) -> None:
        while not self._ended.wait(SHOWN_EVERY_S):
            self.context.doing("sampling", self.done, self.total)

    def close(self) -> None:
        """Show nothing more."""
        self._ended.set()
        self._thread.join()
