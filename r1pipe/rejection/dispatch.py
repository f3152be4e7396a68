"""Units on their way to the writer, which takes them in order; samples come in any order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from r1pipe.candidates.candidate import Sample
from r1pipe.records import Problem
from r1pipe.rejection.schedule import Unit
from r1pipe.rejection.writer_process import CandidateWriterProcess

SAMPLES_AT_ONCE = 32
"""Samples that go to the writer together."""


@dataclass
class _Open:
    """A unit that was not passed on yet."""

    unit: Unit
    problems: Sequence[Problem]
    left: int
    """Samples that are still to come."""
    replay: Callable[[], bytes] | None = None
    """What reads its lines, if it comes from a journal."""
    held: list[Sample] = field(default_factory=list)
    is_begun: bool = False
    has_failed: bool = False


class Dispatcher:
    """Passes samples on unit by unit, in the units' order.

    Those of the first open unit go at once, so that they are verified while others are sampled;
    those of later units wait here.
    """

    def __init__(self, writer: CandidateWriterProcess) -> None:
        self.writer = writer
        self.failed: set[int] = set()
        """Numbers of the units that were left out."""
        self._open: deque[_Open] = deque()
        self._by_number: dict[int, _Open] = {}

    def open(self, unit: Unit, problems: Sequence[Problem]) -> None:
        """Add a unit whose samples follow."""
        self._append(_Open(unit, problems, unit.num_samples))

    def replay(self, unit: Unit, problems: Sequence[Problem], lines: Callable[[], bytes]) -> None:
        """Add a unit whose rows a journal has."""
        self._append(_Open(unit, problems, 0, lines))

    def add(self, number: int, sample: Sample) -> bool:
        """Take a sample of a unit; return whether it was the unit's last one."""
        own = self._by_number[number]
        own.held.append(sample)
        own.left -= 1
        if own is self._open[0] and len(own.held) == SAMPLES_AT_ONCE:
            self._pass_on(own)
        is_whole = own.left == 0
        self._advance()
        return is_whole

    def fail(self, number: int) -> None:
        """Leave a unit out: not all of its samples can be had."""
        self._by_number[number].has_failed = True
        self._advance()

    def fail_open(self) -> None:
        """Leave out all units whose samples are not all there: no more will come."""
        for own in self._open:
            own.has_failed = own.left > 0
        self._advance()

    def is_open(self, unit: Unit) -> bool:
        """Whether a unit was neither passed on nor left out yet."""
        return unit.number in self._by_number

    def _append(self, own: _Open) -> None:
        self._open.append(own)
        self._by_number[own.unit.number] = own
        self._advance()

    def _advance(self) -> None:
        """Close the units at the front that are whole or have failed."""
        while self._open and (self._open[0].left == 0 or self._open[0].has_failed):
            own = self._open.popleft()
            del self._by_number[own.unit.number]
            if own.has_failed:
                self.failed.add(own.unit.number)
                if own.is_begun:
                    self.writer.abandon()
            elif own.replay is not None:
                self.writer.replay(own.problems, own.replay())
            else:
                self._pass_on(own)
                self.writer.end()
        if self._open and len(self._open[0].held) >= SAMPLES_AT_ONCE:
            self._pass_on(self._open[0])

    def _pass_on(self, own: _Open) -> None:
        if not own.is_begun:
            self.writer.begin(own.problems)
            own.is_begun = True
        self.writer.add(own.held)
        own.held = []
