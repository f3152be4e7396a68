"""Units of requests sampled as one stream, each handed over as soon as it is whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Generic, TypeVar

from r1pipe.generate.failures import FailedUnits
from r1pipe.generate.protocol import Request, Sampled
from r1pipe.generate.streaming import Stream, UnitFailed

ItemT = TypeVar("ItemT")
FoundT = TypeVar("FoundT")


@dataclass(frozen=True)
class PendingUnit(Generic[ItemT]):
    """A unit: what it is about, and the requests that it needs, which have different indices."""

    name: str
    item: ItemT
    requests: Sequence[Request]


@dataclass(frozen=True)
class FinishedUnit(Generic[ItemT, FoundT]):
    """A unit with what was read from each completion, by the index of its request."""

    name: str
    item: ItemT
    found: dict[int, FoundT]
    tokens_per_s: float
    """Of all units, since the last one was handed over."""


@dataclass
class _Open(Generic[ItemT, FoundT]):
    unit: PendingUnit[ItemT]
    by_index: dict[int, Request]
    found: dict[int, FoundT] = field(default_factory=dict)


def finished_units(
    stream: Stream,
    units: Iterable[PendingUnit[ItemT]],
    read: Callable[[ItemT, Request, Sampled], FoundT],
    failed: FailedUnits,
    *,
    first_alone: bool = False,
) -> Iterator[FinishedUnit[ItemT, FoundT]]:
    """Yield every unit when its last completion is there, in whatever order that comes.

    A generator that streams is never without requests while there are further units. Completions
    are read as they come. Units that cannot be sampled are noted in `failed`, which ends the stage
    when nobody is there. With `first_alone` no other unit begins before the first has ended.
    """
    waiting, num_tokens, since = iter(units), 0, perf_counter()
    under_way: dict[str, _Open[ItemT, FoundT]] = {}
    while True:
        while stream.wants_units and not (first_alone and under_way):
            if (unit := next(waiting, None)) is None:
                break
            if unit.requests:
                under_way[unit.name] = _Open(unit, {each.index: each for each in unit.requests})
                stream.add(unit.name, unit.requests)
            else:
                yield FinishedUnit(unit.name, unit.item, {}, 0.0)
        if not under_way:
            return
        name, sampled = stream.take()
        if isinstance(sampled, UnitFailed):
            del under_way[name]
            first_alone = False
            failed.add(sampled.failure)
            continue
        own, index = under_way[name], sampled.index
        num_tokens += len(sampled.token_ids)
        own.found[index] = read(own.unit.item, own.by_index[index], sampled)
        if len(own.found) == len(own.by_index):
            del under_way[name]
            failed.succeeded()
            first_alone = False
            yield FinishedUnit(
                name, own.unit.item, own.found, num_tokens / (perf_counter() - since)
            )
            num_tokens, since = 0, perf_counter()
