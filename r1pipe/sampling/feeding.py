"""Hands samples to the recorder unit by unit, though a generator finishes them in any order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from r1pipe.records import Problem
from r1pipe.rl.candidates import Sample
from r1pipe.sampling.schedule import Unit

SAMPLES_AT_ONCE = 32
"""Samples that go to the recorder together."""


class Recording(Protocol):
    """What is needed of a recorder here."""

    def begin(self, problems: Sequence[Problem]) -> None: ...
    def add(self, samples: Sequence[Sample]) -> None: ...
    def end(self) -> None: ...
    def abandon(self) -> None: ...


def feed(
    recorder: Recording,
    units: Sequence[Unit],
    problems: Sequence[Sequence[Problem]],
    samples: Iterable[tuple[int, Sample]],
) -> None:
    """Pass on the samples (each with its unit's place) of units that are sampled together.

    Those of the first unfinished unit go at once, so that they are judged while others are
    sampled; those of later units wait here. All units are begun and ended, in order; where sampling
    fails, the unfinished ones leave nothing behind.
    """
    try:
        _feed(recorder, units, problems, samples)
    except BaseException:
        recorder.abandon()
        raise


def _feed(
    recorder: Recording,
    units: Sequence[Unit],
    problems: Sequence[Sequence[Problem]],
    samples: Iterable[tuple[int, Sample]],
) -> None:
    held: list[list[Sample]] = [[] for _ in units]
    left = [unit.num_samples for unit in units]
    first = 0
    recorder.begin(problems[first])
    for place, sample in samples:
        held[place].append(sample)
        left[place] -= 1
        if place == first and len(held[first]) == SAMPLES_AT_ONCE:
            recorder.add(held[first])
            held[first] = []
        while left[first] == 0 and first + 1 < len(units):
            recorder.add(held[first])
            held[first] = []
            recorder.end()
            first += 1
            recorder.begin(problems[first])
    for place in range(first, len(units)):
        if place > first:
            recorder.begin(problems[place])
        recorder.add(held[place])
        recorder.end()
