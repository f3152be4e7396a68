"""Samplers that several processes of a trainer have together.

Apart from the trainer rank 0 has them and drives them for all ranks. Beside it neighbours may share
an engine's weights (tensor parallelism): each of them samples the requests of all, in step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain
from typing import TypeVar

import numpy as np
import pyarrow as pa

from r1pipe.errors import CommonError, Interrupted, StageError
from r1pipe.generate.following import Followed, Ticker, waited_for
from r1pipe.generate.protocol import (
    Generator,
    GeneratorWrapper,
    LosingGenerator,
    Request,
    Sampled,
    SamplingParams,
    Weights,
)
from r1pipe.ranks import Ranks
from r1pipe.records import FinishReason
from r1pipe.stage import Context
from r1pipe.tables import gather_tables, ragged

T = TypeVar("T")


class Together:
    """The requests of some ranks, this one among them, numbered in the order of ranks."""

    def __init__(self, ranks: Ranks, own: Sequence[Request], members: range) -> None:
        """Gather the requests of all ranks, which call this together; keep those of `members`."""
        asked = ranks.gather([(request.prompt_ids, request.seed) for request in own])
        self._asked = asked[members.start : members.stop]
        self._own = own
        self._first = sum(map(len, asked[members.start : ranks.rank]))

    def requests(self) -> list[Request]:
        """Return them all, with their numbers as indices."""
        flat = enumerate(chain.from_iterable(self._asked))
        return [Request(tuple(ids), seed, number) for number, (ids, seed) in flat]

    def own(self, sampled: Sampled) -> Sampled | None:
        """Return a completion with the index of this rank's request; None if it is another's."""
        place = sampled.index - self._first
        if not 0 <= place < len(self._own):
            return None
        return replace(sampled, index=self._own[place].index)


class Driven:
    """A generator whose engines rank 0 has; all ranks call its methods together."""

    def __init__(self, engines: Generator | None, context: Context) -> None:
        """`engines` are there on rank 0 only."""
        self.losses = engines.losses if isinstance(engines, LosingGenerator) else []
        self.engines = engines
        self._context = context

    def generate(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Sampled]:
        """Yield the completions of this rank's requests, when those of all ranks are there.

        Raises Interrupted on all ranks when a stop was asked for, CommonError when engines fail.
        """
        ranks = self._context.ranks
        together = Together(ranks, requests, range(ranks.size))
        found = by_rank_0(ranks, lambda: self._sampled(together.requests(), sampling))
        told = gather_tables(ranks, to_table(found or []))[0]
        for sampled in from_table(told):
            if (own := together.own(sampled)) is not None:
                yield own

    def _sampled(self, requests: Sequence[Request], sampling: SamplingParams) -> list[Sampled]:
        """Return the completions of what all ranks ask for."""
        assert self.engines is not None, "rank 0 has them"
        found = list[Sampled]()
        with closing(Ticker(self._context, len(requests), 0)) as shown:
            completions = iter(self.engines.generate(requests, sampling))
            while (sampled := waited_for(self._context, completions)) is not None:
                found.append(sampled)
                shown.done += 1
        return found

    def load_weights(self, tensors: Weights) -> None:
        """Replace the engines' weights; the other ranks only help to gather them.

        Raises CommonError on all ranks if they do not arrive.
        """
        gathered = iter(tensors)

        def push() -> None:
            assert self.engines is not None, "rank 0 has them"
            try:
                self.engines.load_weights(gathered)
            finally:
                exhaust(gathered)  # of what is left too, others give their parts

        if self.engines is None:
            exhaust(gathered)
        by_rank_0(self._context.ranks, push)

    def sleep(self) -> None:
        """Free what the trainer can use."""
        if self.engines is not None:
            self.engines.sleep()

    def close(self) -> None:
        """End the engines."""
        if self.engines is not None:
            self.engines.close()


class Joined(GeneratorWrapper):
    """A generator that `width` neighbouring ranks have together; all ranks call its methods
    together."""

    def __init__(self, engine: Generator, context: Context, width: int) -> None:
        """`engine` is this rank's part of one; it must be given the same as its neighbours'. It
        takes its own part of each weight."""
        super().__init__(engine)
        self._context = context
        self._width = width

    def generate(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Sampled]:
        """Yield the completions of this rank's requests, when those of its neighbours are there.

        Raises Interrupted on all ranks when a stop was asked for before: ranks see that at
        different times, and an engine's parts go in step.
        """
        ranks = self._context.ranks
        leader = ranks.rank - ranks.rank % self._width
        together = Together(ranks, requests, range(leader, leader + self._width))
        by_rank_0(ranks, self._look_for_stop)
        asked = together.requests()
        with closing(Ticker(self._context, len(asked), 0)) as shown:
            for sampled in self.generator.generate(asked, sampling):
                shown.done += 1
                if (own := together.own(sampled)) is not None:
                    yield own

    def _look_for_stop(self) -> None:
        with self._context.interruptible():
            pass


def by_rank_0(ranks: Ranks, work: Callable[[], T]) -> T | None:
    """Do a work on rank 0, while the others wait; return what it gives there, None on them.

    What ends it ends all ranks: Interrupted, or a StageError as CommonError.
    """
    found, failure = None, None
    try:
        found = work() if ranks.is_main else None
    except (Interrupted, StageError) as error:
        failure = error
    ended = None if failure is None else (isinstance(failure, Interrupted), str(failure))
    if (told := ranks.gather(ended)[0]) is not None:
        is_stop, why = told
        raise (Interrupted if is_stop else CommonError)(why) from failure
    return found


def exhaust(tensors: Weights) -> None:
    """Gather tensors for which this process has no use."""
    for _ in tensors:
        pass


def followed(generator: Generator, context: Context) -> Generator:
    """Return a generator as a stage follows it; one that ranks have together follows itself."""
    is_together = isinstance(generator, Driven | Joined)
    return generator if is_together else Followed(generator, context)


def to_table(sampled: Sequence[Sampled]) -> pa.Table:
    """Return completions as a table."""
    return pa.table(
        {
            "index": pa.array([each.index for each in sampled], pa.int64()),
            "token_ids": ragged([each.token_ids for each in sampled], np.int64),
            "logprobs": ragged([each.logprobs for each in sampled], np.float64),
            "finish_reason": pa.array([each.finish_reason for each in sampled], pa.string()),
        }
    )


def from_table(table: pa.Table) -> Iterator[Sampled]:
    """Yield the completions of a table that `to_table` made."""
    for row in table.to_pylist():
        yield Sampled(**{**row, "finish_reason": FinishReason(row["finish_reason"])})
