"""The order of sampling: every problem alike, or in rounds that leave some out.

With quotas, decisions rest on the results of units that are `LAG` or more before the unit decided
on (a new round waits for all of them). Without, a problem's part in a round rests on its own
results only, and a round begins while the last completions of the one before are sampled. No
decision rests on what happens to be known by then. So a resumed stage, and one with a higher
target, goes through the same units.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from r1pipe.candidates.quotas import QuotaCounts, Quotas
from r1pipe.records import Problem
from r1pipe.rejection.params import SampleParams
from r1pipe.rejection.writer import UnitResult

LAG = 8
"""Units in flight at most with quotas: some are sampled while those before them are verified."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Samples `first_sample` and on of some problems, given by their places in the list."""

    number: int
    places: tuple[int, ...]
    first_sample: int
    samples_per_problem: int

    @property
    def samples(self) -> range:
        """The numbers of each problem's samples."""
        return range(self.first_sample, self.first_sample + self.samples_per_problem)

    @property
    def num_samples(self) -> int:
        """Samples of the unit."""
        return len(self.places) * self.samples_per_problem


class Schedule:
    """Gives out units, and takes their results in the same order."""

    def __init__(self, problems: Sequence[Problem], params: SampleParams) -> None:
        self.problems = problems
        self.params = params
        adaptive = params.adaptive
        self.quotas = QuotaCounts(adaptive.quotas if adaptive else Quotas())
        per_round = adaptive.samples_per_round if adaptive else params.samples_per_problem
        self.rounds = [
            (first, min(per_round, params.samples_per_problem - first))
            for first in range(0, params.samples_per_problem, per_round)
        ]
        count = len(problems)
        self.num_samples, self.num_new = array("l", [0]) * count, array("l", [0]) * count
        self.num_tokens = array("q", [0]) * count
        self._is_beyond_quota = bytearray(count)
        self._latest = array("l", [-1]) * count
        """The number of the last unit that a problem was in."""
        self.num_units = 0

    @property
    def has_quotas(self) -> bool:
        """Whether a problem's rows may rule out those of another one."""
        return self.params.adaptive is not None and self.params.adaptive.quotas != Quotas()

    def units(self, take_until: Callable[[int], None]) -> Iterator[Unit]:
        """Yield the units; `take_until` must have the results taken in of the unit of a number and
        of all before it."""
        size = self.params.problems_per_unit
        for first, samples in self.rounds:
            if self.has_quotas:
                take_until(self.num_units - 1)
            chosen: list[int] = []
            for place in range(len(self.problems)):
                take_until(self._latest[place])
                if self.reason_to_stop(place) is None:
                    chosen.append(place)
                if len(chosen) == size:
                    yield self._unit(chosen, first, samples)
                    chosen = []
            if chosen:
                yield self._unit(chosen, first, samples)

    def _unit(self, places: Sequence[int], first: int, samples: int) -> Unit:
        self.num_units += 1
        for place in places:
            self._latest[place] = self.num_units - 1
        return Unit(self.num_units - 1, tuple(places), first, samples)

    def of(self, unit: Unit) -> list[Problem]:
        """Return the problems of a unit."""
        return [self.problems[place] for place in unit.places]

    def take(self, unit: Unit, result: UnitResult) -> None:
        """Take in the result of a unit."""
        for place, found in zip(unit.places, result.problems, strict=True):
            self.num_samples[place] += unit.samples_per_problem
            self.num_new[place] += len(found.new_lengths)
            self.num_tokens[place] += found.num_tokens
            if found.over_quota and not found.new_lengths:
                self._is_beyond_quota[place] = True
            for length_range in found.new_lengths:
                self.quotas.add(self.problems[place], length_range)

    def reason_to_stop(self, place: int) -> str | None:
        """Return why a problem is sampled no more (`enough`, `hopeless`, `quota`), or None."""
        adaptive = self.params.adaptive
        if adaptive is None:
            return None
        if self.num_new[place] >= adaptive.enough_rows:
            return "enough"
        if self._is_beyond_quota[place] or self.quotas.is_full(self.problems[place]):
            return "quota"
        is_hopeless = self.num_samples[place] >= adaptive.hopeless_after and not self.num_new[place]
        return "hopeless" if is_hopeless else None

    def samples_left(self) -> int:
        """Return how many samples the problems could still be asked for, as things stand."""
        limit = self.params.samples_per_problem
        return sum(
            limit - self.num_samples[place]
            for place in range(len(self.problems))
            if self.reason_to_stop(place) is None
        )

    def status(self, place: int) -> str:
        """Return a problem's outcome: why it was sampled no more, `not_reached`, `no_rows`, or
        `sampled` if it has rows and nothing spoke against more of them."""
        if not self.num_samples[place]:
            return "not_reached"
        return self.reason_to_stop(place) or ("sampled" if self.num_new[place] else "no_rows")
