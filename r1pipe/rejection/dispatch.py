"""Dispatch samples to the writer unit by unit; a generator finishes them in any order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from r1pipe.candidates.candidate import Sample
from r1pipe.records import Problem
from r1pipe.rejection.schedule import Unit
from r1pipe.rejection.writer_process import CandidateWriterProcess

SAMPLES_AT_ONCE = 32
"""Samples that go to the writer together."""


def dispatch(
    writer: CandidateWriterProcess,
    units: Sequence[Unit],
    problems: Sequence[Sequence[Problem]],
    samples: Iterable[tuple[int, Sample]],
) -> Iterator[int]:
    """Pass on the samples (each with its unit's place) of units that are sampled together, and
    yield the place of each unit that has been passed on.

    Those of the first unfinished unit go at once, so that they are verified while others are
    sampled; those of later units wait here. Units are passed on in order. If sampling fails,
    those whose samples are all there still are, and nothing of the others is kept.
    """
    dispatcher = _Dispatcher(writer, problems, [unit.num_samples for unit in units])
    try:
        for place, sample in samples:
            yield from dispatcher.take(place, sample)
    except Exception:
        yield from dispatcher.end_whole()
        raise
    except BaseException:
        dispatcher.abandon()
        raise
    yield from dispatcher.end_all()


class _Dispatcher:
    def __init__(
        self,
        writer: CandidateWriterProcess,
        problems: Sequence[Sequence[Problem]],
        sizes: Sequence[int],
    ) -> None:
        self.writer = writer
        self.problems = problems
        self.held: list[list[Sample]] = [[] for _ in sizes]
        self.left = list(sizes)
        self.first = 0
        self.is_begun = False

    def take(self, place: int, sample: Sample) -> Iterator[int]:
        """Take one sample; end the units before the last one that are whole then."""
        self.held[place].append(sample)
        self.left[place] -= 1
        if place == self.first and len(self.held[place]) == SAMPLES_AT_ONCE:
            self._pass_on(place)
        while self.left[self.first] == 0 and self.first + 1 < len(self.left):
            yield self._end(self.first)

    def end_whole(self) -> Iterator[int]:
        """End those units of the rest whose samples are all there."""
        if self.left[self.first]:
            self.abandon()
        for place in range(self.first, len(self.left)):
            if self.left[place] == 0:
                yield self._end(place)

    def end_all(self) -> Iterator[int]:
        """End the rest of the units as they are."""
        for place in range(self.first, len(self.left)):
            yield self._end(place)

    def abandon(self) -> None:
        """Have the writer forget the unit that it was given some samples of."""
        if self.is_begun:
            self.writer.abandon()
            self.is_begun = False

    def _end(self, place: int) -> int:
        self._pass_on(place)
        self.writer.end()
        self.is_begun = False
        self.first = place + 1
        return place

    def _pass_on(self, place: int) -> None:
        if not self.is_begun:
            self.writer.begin(self.problems[place])
            self.is_begun = True
        self.writer.add(self.held[place])
        self.held[place] = []
