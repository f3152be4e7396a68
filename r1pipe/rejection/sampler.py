"""The loop of rejection sampling: some units are sampled while others are verified.

A generator that streams is given the requests of further units as it has room for them; another
one samples unit after unit.

A unit that cannot be sampled does not stop the others, as far as they do not depend on it. Their
rows go into the journal, where a resumed stage finds them by the unit's number and plays them back
in its place: so its decisions, all taken in the units' order, are those of a run without failures.
"""

# a unit's way: pending (sampled, then given to the writer, or failed) -> done -> the schedule

from __future__ import annotations

import json
from collections import deque
from contextlib import suppress
from functools import partial
from math import ceil

from r1pipe.errors import StageError
from r1pipe.generate.failures import FailedUnits
from r1pipe.generate.streaming import Stream, UnitFailed
from r1pipe.rejection.dispatch import Dispatcher
from r1pipe.rejection.forecast import Forecast
from r1pipe.rejection.fruitless import Fruitless
from r1pipe.rejection.params import CollectRun, SampleParams
from r1pipe.rejection.schedule import LAG, Schedule, Unit
from r1pipe.rejection.sources import Asked, GeneratedSamples, PreviousSamples
from r1pipe.rejection.writer import UnitResult
from r1pipe.rejection.writer_process import CandidateWriterProcess
from r1pipe.stage import Context

LEFT_EVERY_UNITS = 64
"""Units between two counts of the samples that are left, which look at every problem."""


SLOTS_IN_FLIGHT = 8
"""Samples of the units in flight, as a multiple of what an engine samples together: while a long
completion is sampled, its slot's neighbours have others. Their texts are in memory."""
UNITS_IN_FLIGHT = 6
"""Units in flight in any case: few slots would else wait for the longest completion of one."""


class RejectionSampler:
    """Samples and writes all units of a schedule, a bounded number of them in flight."""

    def __init__(
        self,
        context: Context,
        params: SampleParams,
        run: CollectRun,
        schedule: Schedule,
        source: GeneratedSamples,
        writer: CandidateWriterProcess,
        stream: Stream,
    ) -> None:
        self.context = context
        self.schedule = schedule
        self.source = source
        self.writer = writer
        self.stream = stream
        self.dispatcher = Dispatcher(writer)
        self.target_rows = params.target_rows
        self.is_adaptive = params.adaptive is not None
        self.journal = context.journal("candidates")
        self.journaled = self.journal.done()
        previous = context.previous("candidates")
        self.previous = PreviousSamples(previous, params.seed) if previous else None
        self.num_reused = 0
        self.forecast = Forecast(params.target_rows)
        self.samples_left = 0
        self.failures = FailedUnits()
        self.fruitless = Fruitless(run.stop_without_rows)
        self.pending: deque[Unit] = deque()
        self.done: deque[tuple[Unit, UnitResult | None]] = deque()
        self.sampled: dict[int, Asked] = {}
        """The units in flight that the generator samples, by number."""
        self.num_taken = 0
        """Units that the schedule has the results of, or that failed."""
        self.num_in_flight = 0
        """Samples of the units that are pending."""
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
            with suppress(Exception):  # it is about the failure that is raised below
                self.dispatcher.fail_open()
                self.finish_all()  # what was sampled is verified and kept
            raise
        self.failures.check()
        self.take_all()

    def run_units(self) -> None:
        """Begin unit after unit, while the oldest ones finish."""
        for unit in self.schedule.units(self.take_until):
            self.make_room()
            if self.is_reached():
                return
            self.begin(unit)
            while not self.stream.wants_units:
                self.take_sample()
            self.check_fruit()
            self.context.stop_if_asked()

    def make_room(self) -> None:
        """Take results until another unit may begin."""
        if self.schedule.has_quotas or not self.stream.is_streaming:
            while len(self.pending) + len(self.done) >= LAG:
                self.take_oldest()
            return
        while self.pending and (self.is_full() or self.is_oldest_finished()):
            self.finish_oldest()
        while self.done:
            self.take_oldest()

    def is_full(self) -> bool:
        """Whether the units in flight are as many as may be."""
        fewest = self.pending[0].num_samples * UNITS_IN_FLIGHT
        return self.num_in_flight >= max(fewest, self.stream.num_slots * SLOTS_IN_FLIGHT)

    def is_oldest_finished(self) -> bool:
        """Whether the oldest result can be had without waiting."""
        unit = self.pending[0]
        if self.dispatcher.is_open(unit):
            return False
        return unit.number in self.dispatcher.failed or self.writer.has_result

    def check_fruit(self) -> None:
        """Raise Paused if too much was sampled in vain.

        Waits for results until there is a row, unless that would leave slots empty.
        """
        while self.fruitless.is_watching and self.pending and not self.stream.is_streaming:
            self.finish_oldest()
        self.fruitless.check(self.context)

    def begin(self, unit: Unit) -> None:
        """Start a unit: from the journal, a previous result, or the generator."""
        problems, name = self.schedule.of(unit), str(unit.number)
        self.num_unknown += unit.num_samples
        self.num_in_flight += unit.num_samples
        self.pending.append(unit)
        if name in self.journaled:
            if self.previous is not None:
                self.previous.skip(unit)
            self.dispatcher.replay(unit, problems, partial(self.journal.lines, name))
            return
        self.dispatcher.open(unit, problems)
        if self.previous and (samples := self.previous.take(unit, problems)) is not None:
            self.num_reused += unit.num_samples
            for sample in samples:
                self.dispatcher.add(unit.number, sample)
            return
        requests = self.source.requests(unit, problems)
        self.sampled[unit.number] = Asked(unit, problems, requests)
        self.forecast.start()
        self.stream.add(name, requests)

    def take_sample(self) -> None:
        """Wait for the next completion of any unit; a unit that cannot be sampled has failed."""
        name, found = self.stream.take()
        if isinstance(found, UnitFailed):
            self.dispatcher.fail(int(name))
            del self.sampled[int(name)]
            self.failures.add(found.failure)
            return
        number = int(name)
        if self.dispatcher.add(number, self.source.sample(self.sampled[number], found)):
            self.failures.succeeded()

    def is_reached(self) -> bool:
        """Return whether there are enough rows, or may be once failed units are sampled.

        Waits only if the units in flight decide.
        """
        while self.pending and self._kept_at_most() >= self.target_rows:
            self.finish_oldest()
        return self._kept_at_most() >= self.target_rows

    def _kept_at_most(self) -> int:
        return self.forecast.num_kept + self.num_unknown

    def finish_oldest(self) -> None:
        """Wait for the oldest result and put its rows into the journal."""
        unit = self.pending[0]
        while self.dispatcher.is_open(unit):
            self.take_sample()
        self.pending.popleft()
        self.num_in_flight -= unit.num_samples
        if unit.number in self.dispatcher.failed:
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
        self.sampled.pop(unit.number, None)
        if name not in self.journaled:
            self._log(unit, result)

    def finish_all(self) -> None:
        """Wait for the results of all units that were begun."""
        while self.pending:
            self.finish_oldest()

    def take_oldest(self) -> None:
        """Pass the oldest new result to the schedule.

        Adaptive schedules need every result: there a failed unit ends the sampling here.
        """
        if not self.done:
            self.finish_oldest()
        unit, result = self.done.popleft()
        self.num_taken += 1
        if result is not None:
            self.schedule.take(unit, result)
        elif self.is_adaptive:
            self.finish_all()
            self.failures.check()

    def take_until(self, number: int) -> None:
        """Pass results to the schedule up to those of the unit of a number."""
        while self.num_taken <= number:
            self.take_oldest()

    def take_all(self) -> None:
        """Pass all new results to the schedule."""
        while self.pending or self.done:
            self.take_oldest()

    def _log(self, unit: Unit, result: UnitResult) -> None:
        if unit.number % LEFT_EVERY_UNITS == 0 or not self.samples_left:
            self.samples_left = self.schedule.samples_left()
        self.samples_left = max(0, self.samples_left - result.num_rows)
        values, samples = self.forecast.values(self.samples_left)
        if self.dispatcher.failed:
            values["failed_units"] = float(len(self.dispatcher.failed))
        self.context.log(
            unit.number + 1,
            unit.number + 1 + ceil(samples / unit.num_samples),
            pass_rate=result.num_correct / result.num_rows,
            **values,
        )
