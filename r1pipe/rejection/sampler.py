"""The loop of rejection sampling: some units are sampled while others are verified.

A unit that cannot be sampled does not stop the others, as far as they do not depend on it. Their
rows go into the journal, where a resumed stage finds them by the unit's number and plays them back
in its place: so its decisions, all taken in the units' order, are those of a run without failures.
"""

# a unit's way: queued -> pending (given to the writer, or failed) -> done -> the schedule

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from math import ceil

from r1pipe.candidates.candidate import Sample
from r1pipe.errors import StageError
from r1pipe.generate.failures import FailedUnits
from r1pipe.rejection.dispatch import dispatch
from r1pipe.rejection.forecast import Forecast
from r1pipe.rejection.fruitless import Fruitless
from r1pipe.rejection.params import CollectRun, SampleParams
from r1pipe.rejection.schedule import LAG, Schedule, Unit
from r1pipe.rejection.sources import GeneratedSamples, PreviousSamples
from r1pipe.rejection.writer import UnitResult
from r1pipe.rejection.writer_process import CandidateWriterProcess
from r1pipe.stage import Context

LEFT_EVERY_UNITS = 64
"""Units between two counts of the samples that are left, which look at every problem."""


class RejectionSampler:
    """Samples and writes all units of a schedule, at most `LAG` of them in flight."""

    def __init__(
        self,
        context: Context,
        params: SampleParams,
        run: CollectRun,
        schedule: Schedule,
        source: GeneratedSamples,
        writer: CandidateWriterProcess,
    ) -> None:
        self.context = context
        self.schedule = schedule
        self.source = source
        self.writer = writer
        self.target_rows = params.target_rows
        self.is_adaptive = params.adaptive is not None
        self.units_at_once = run.units_at_once
        self.journal = context.journal("candidates")
        self.journaled = self.journal.done()
        previous = context.previous("candidates")
        self.previous = PreviousSamples(previous, params.seed) if previous else None
        self.num_reused = 0
        self.forecast = Forecast(params.target_rows)
        self.samples_left = 0
        self.failures = FailedUnits()
        self.fruitless = Fruitless(run.stop_without_rows)
        self.queued: list[Unit] = []
        self.pending: deque[Unit] = deque()
        self.done: deque[tuple[Unit, UnitResult | None]] = deque()
        self.sampled: set[int] = set()
        """Numbers of the units in flight that the generator sampled."""
        self.failed: set[int] = set()
        """Numbers of the units that have no result."""
        self.num_unknown = 0
        """Samples of units that were begun and have no result (yet)."""

    def run(self) -> None:
        """Go through the units until the target is reached or nothing is left to sample.

        Raises StageError if units failed, when all has been sampled that does not depend on them.
        """
        try:
            self.run_units()
            self.finish_all()
        except Exception:
            self.queued = []
            with suppress(Exception):  # it is about the failure that is raised below
                self.finish_all()  # what was sampled is verified and kept
            raise
        self.failures.check()
        self.take_all()

    def run_units(self) -> None:
        """Begin unit after unit, while the oldest ones finish."""
        for unit in self.schedule.units(self.take_all):
            while len(self.queued) + len(self.pending) + len(self.done) >= LAG:
                self.take_oldest()
            if self.is_reached():
                return
            self.begin(unit)
            self.check_fruit()
            self.context.stop_if_asked()

    def check_fruit(self) -> None:
        """Raise Paused if too much was sampled in vain; waits for results until there is a row."""
        while self.fruitless.is_watching and self.pending:
            self.finish_oldest()
        self.fruitless.check(self.context)

    def begin(self, unit: Unit) -> None:
        """Start a unit: from the journal, a previous result, or the generator."""
        problems, name = self.schedule.of(unit), str(unit.number)
        self.num_unknown += unit.num_samples
        if name in self.journaled:
            self.sample_queued()  # units are written in their order
            if self.previous is not None:
                self.previous.skip(unit)
            self.writer.replay(problems, self.journal.lines(name))
            self.pending.append(unit)
        elif self.previous and (samples := self.previous.take(unit, problems)) is not None:
            self.sample_queued()
            self.num_reused += unit.num_samples
            self.give([unit], ((0, sample) for sample in samples))
        else:
            self.queued.append(unit)
            if len(self.queued) == self.units_at_once:
                self.sample_queued()

    def sample_queued(self) -> None:
        """Sample all queued units at once, if any."""
        units, self.queued = self.queued, []
        if not units:
            return
        self.sampled.update(unit.number for unit in units)
        self.forecast.start()
        problems = [self.schedule.of(unit) for unit in units]
        self.give(units, self.source.samples(units, problems))

    def give(self, units: list[Unit], samples: Iterable[tuple[int, Sample]]) -> None:
        """Give samples to the writer; a unit whose samples cannot be had has failed."""
        problems = [self.schedule.of(unit) for unit in units]
        left = set(range(len(units)))
        try:
            with self.failures.tolerated(left):
                for place in dispatch(self.writer, units, problems, samples):
                    left.remove(place)
        finally:
            self.pending.extend(units)
            self.failed.update(units[place].number for place in left)

    def is_reached(self) -> bool:
        """Return whether there are enough rows, or may be once failed units are sampled.

        Waits only if the units in flight decide.
        """
        while (self.queued or self.pending) and self._kept_at_most() >= self.target_rows:
            self.finish_oldest()
        return self._kept_at_most() >= self.target_rows

    def _kept_at_most(self) -> int:
        return self.forecast.num_kept + self.num_unknown

    def finish_oldest(self) -> None:
        """Wait for the oldest result and put its rows into the journal."""
        if not self.pending:
            self.sample_queued()
        unit = self.pending.popleft()
        if unit.number in self.failed:
            self.done.append((unit, None))
            return
        result = self.writer.result()
        if result.num_rows != unit.num_samples:
            raise StageError(
                f"{self.context.name}: {result.num_rows} candidates came of {unit.num_samples}"
                f" requests (unit {unit.number}); the generator lost or repeated some"
            )
        name = str(unit.number)
        if self.fruitless.is_watching:
            lines = result.payload or self.journal.lines(name)
            rows = [json.loads(line) for line in lines.splitlines()]
            self.fruitless.add(rows, is_sampled=name not in self.journaled)
        if result.payload:
            self.journal.append_lines(name, result.num_rows, result.payload)
            result.payload = b""
        self.done.append((unit, result))
        self.num_unknown -= unit.num_samples
        self.forecast.add(result, is_sampled=unit.number in self.sampled)
        self.sampled.discard(unit.number)
        if name not in self.journaled:
            self._log(unit, result)

    def finish_all(self) -> None:
        """Wait for the results of all units that were begun."""
        while self.queued or self.pending:
            self.finish_oldest()

    def take_oldest(self) -> None:
        """Pass the oldest new result to the schedule.

        Adaptive schedules need every result: there a failed unit ends the sampling here.
        """
        if not self.done:
            self.finish_oldest()
        unit, result = self.done.popleft()
        if result is not None:
            self.schedule.take(unit, result)
        elif self.is_adaptive:
            self.finish_all()
            self.failures.check()

    def take_all(self) -> None:
        """Pass all new results to the schedule."""
        while self.queued or self.pending or self.done:
            self.take_oldest()

    def _log(self, unit: Unit, result: UnitResult) -> None:
        if unit.number % LEFT_EVERY_UNITS == 0 or not self.samples_left:
            self.samples_left = self.schedule.samples_left()
        self.samples_left = max(0, self.samples_left - result.num_rows)
        values, samples = self.forecast.values(self.samples_left)
        if self.failed:
            values["failed_units"] = float(len(self.failed))
        self.context.log(
            unit.number + 1,
            unit.number + 1 + ceil(samples / unit.num_samples),
            pass_rate=result.num_correct / result.num_rows,
            **values,
        )
