"""Rejection sampling as a stream: problems in, requests out, completions judged meanwhile.

A unit is some problems with the same number of samples each. While units are sampled, what has
finished is judged by a recorder in another process, which fills the candidates' shards. A judged
unit goes into the attempt's journal, so a kill costs the units in flight. A resumed stage plays the
journal back through the same path; so does one whose target was raised, with the samples of the
earlier result. Memory does not grow with the number of rows, but for sixteen bytes of each kept
one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import chain, islice
from math import ceil
from typing import Any

from r1pipe.chat import Format
from r1pipe.errors import Interrupted, StageError
from r1pipe.generate.backends import open_generator
from r1pipe.generate.failures import SamplingFailed
from r1pipe.generate.protocol import Sampling
from r1pipe.records import Problem
from r1pipe.rl.candidates import SCHEMA, Origin
from r1pipe.rows import count_rows, read_problems, write_rows
from r1pipe.sampling.feeding import feed
from r1pipe.sampling.params import CollectRun, Quotas, SampleParams
from r1pipe.sampling.recorder import RecorderSettings, UnitResult
from r1pipe.sampling.remote import RemoteRecorder
from r1pipe.sampling.report import Forecast, sampling_report, write_report
from r1pipe.sampling.schedule import LAG, Schedule, Unit
from r1pipe.sampling.selection import kept_rows
from r1pipe.sampling.sources import EarlierSamples, GeneratedSamples
from r1pipe.stage import Context, Inputs
from r1pipe.verify import close_shared
from r1pipe.verify.golds import check_golds

LEFT_EVERY_UNITS = 64
"""Units between two counts of the samples that are left, which look at every problem."""
MAX_NAMED = 20
NUM_SHOWN = 8


def collect(
    context: Context, params: SampleParams, run: CollectRun, inputs: Inputs, fmt: Format
) -> Iterator[dict[str, Any]]:
    """Sample, judge and write all candidates; then return the kept rows, read back from them.

    Raises StageError when nothing is kept, when too many gold answers are unusable, or when the
    candidates do not add up.
    """
    problems = usable_problems(context, read_problems(inputs["problems"]), params)
    schedule = Schedule(problems, params)
    adaptive = params.adaptive
    settings = RecorderSettings(
        Origin(fmt, params.temperature, context.input_ids["model"], params.keep),
        adaptive.quotas if adaptive else Quotas(),
        params.target_rows,
        context.output("candidates"),
    )
    sampling = Sampling(params.temperature, 1.0, params.max_tokens, logprobs=False)
    with (
        closing(RemoteRecorder(settings)) as recorder,
        open_generator(inputs["model"], run, params.precision) as (generator, tokenizer),
    ):
        source = GeneratedSamples(generator, tokenizer, sampling, fmt, params.seed)
        collector = Collector(context, params, run, schedule, source, recorder)
        collector.run()
        counts = recorder.finish()
    check_counts(context, counts, sum(schedule.num_samples))
    report = sampling_report(schedule, params.target_rows)
    if adaptive is not None:
        write_report(context.output("candidates"), report)
        context.note(fixed_n=report["fixed_n"])
    note_all(context, counts, report, collector.num_reused)
    return kept_rows(context.name, context.output("candidates"), counts.get("kept", 0))


def usable_problems(
    context: Context, problems: Sequence[Problem], params: SampleParams
) -> list[Problem]:
    """Return the problems whose gold answer verifies against itself; say which were set aside."""
    if len({problem.id for problem in problems}) != len(problems):
        twice = next(p.id for i, p in enumerate(problems) if p.id in {q.id for q in problems[:i]})
        raise StageError(f"{context.name}: problem {twice} comes twice; give each its own id")
    report = check_golds(problems, max_unusable_frac=params.max_unusable_frac)
    close_shared()  # the recorder has a pool of its own
    if report.quarantined:
        some = report.quarantined[:MAX_NAMED]
        context.note(
            quarantined=len(report.quarantined),
            quarantined_verdicts=report.counts(),
            quarantined_problems=[f"{p.id}: {p.gold[:80]!r} {v}" for p, v in some],
        )
    return report.usable


class Collector:
    """Brings units, their samples and their results together."""

    def __init__(
        self,
        context: Context,
        params: SampleParams,
        run: CollectRun,
        schedule: Schedule,
        source: GeneratedSamples,
        recorder: RemoteRecorder,
    ) -> None:
        self.context = context
        self.schedule = schedule
        self.source = source
        self.recorder = recorder
        self.target_rows = params.target_rows
        self.journal = context.journal("candidates")
        self.num_replayed = len(self.journal.done())
        self.replayed = self.journal.units()
        earlier = context.earlier("candidates")
        self.earlier = EarlierSamples(earlier, params.seed) if earlier else None
        self.num_reused = 0
        self.forecast = Forecast(params.target_rows)
        self.unsettled: deque[Unit] = deque()
        self.settled: deque[tuple[Unit, UnitResult]] = deque()
        self.samples_left = 0
        self.units_at_once = run.units_at_once
        self.waiting: list[Unit] = []

    def run(self) -> None:
        """Go through the units until the target is reached or nothing is left to sample."""
        try:
            for unit in self.schedule.units(self.take_all):
                while len(self.unsettled) + len(self.settled) >= LAG:
                    self.take_oldest()
                if self.is_reached():
                    break
                self.begin(unit)
                self.context.stop_if_asked()
        except (Interrupted, SamplingFailed):
            self._forget(self.waiting)
            self.take_all()  # what was sampled is judged and kept
            raise
        self.take_all()

    def begin(self, unit: Unit) -> None:
        """Have a unit recorded: from the journal, an earlier result, or the generator."""
        problems = self.schedule.of(unit)
        if unit.number < self.num_replayed:
            name, payload = next(self.replayed)
            assert name == str(unit.number), f"the journal has unit {name}, not {unit.number}"
            if self.earlier is not None:
                self.earlier.skip(unit)
            self.recorder.replay(problems, payload)
            self.unsettled.append(unit)
            return
        samples = None if self.earlier is None else self.earlier.take(unit, problems)
        self.unsettled.append(unit)
        if samples is not None:
            self.num_reused += unit.num_samples
            feed(self.recorder, [unit], [problems], ((0, sample) for sample in samples))
            return
        self.waiting.append(unit)
        if len(self.waiting) == self.units_at_once:
            self.sample_waiting()

    def sample_waiting(self) -> None:
        """Have the units sampled that wait for it, all at once."""
        units, self.waiting = self.waiting, []
        problems = [self.schedule.of(unit) for unit in units]
        self.forecast.start()
        before = self.recorder.num_ended
        try:
            feed(self.recorder, units, problems, self.source.samples(units, problems))
        except SamplingFailed:
            self._forget(units[self.recorder.num_ended - before :])
            raise

    def _forget(self, units: Sequence[Unit]) -> None:
        """Take back the last units, which were not sampled."""
        for _ in units:
            self.unsettled.pop()
        self.waiting = []

    def is_reached(self) -> bool:
        """Return whether there are enough rows; waits only where the units in flight decide."""
        while self.unsettled and self._kept_at_most() >= self.target_rows:
            self.settle_oldest()
        return self.forecast.num_kept >= self.target_rows

    def _kept_at_most(self) -> int:
        return self.forecast.num_kept + sum(unit.num_samples for unit in self.unsettled)

    def settle_oldest(self) -> None:
        """Wait for the oldest result and put its rows into the journal."""
        if self.unsettled[0] in self.waiting:
            self.sample_waiting()
        unit, result = self.unsettled.popleft(), self.recorder.result()
        if result.num_rows != unit.num_samples:
            raise StageError(
                f"{self.context.name}: {result.num_rows} candidates came of {unit.num_samples}"
                f" requests (unit {unit.number}); the generator lost or repeated some"
            )
        if result.payload:
            self.journal.append_lines(str(unit.number), result.num_rows, result.payload)
            result.payload = b""
        self.settled.append((unit, result))
        self.forecast.add(result, is_sampled=unit.number >= self.num_replayed)
        if unit.number >= self.num_replayed:
            self._log(unit, result)

    def take_oldest(self) -> None:
        """Let the schedule know the oldest result that it does not know."""
        if not self.settled:
            self.settle_oldest()
        self.schedule.take(*self.settled.popleft())

    def take_all(self) -> None:
        """Let the schedule know all results."""
        while self.unsettled or self.settled:
            self.take_oldest()

    def _log(self, unit: Unit, result: UnitResult) -> None:
        if unit.number % LEFT_EVERY_UNITS == 0 or not self.samples_left:
            self.samples_left = self.schedule.samples_left()
        self.samples_left = max(0, self.samples_left - result.num_rows)
        values, samples = self.forecast.values(self.samples_left)
        self.context.log(
            unit.number + 1,
            unit.number + 1 + ceil(samples / unit.num_samples),
            pass_rate=result.num_correct / result.num_rows,
            **values,
        )


def check_counts(context: Context, counts: Mapping[str, int], num_asked: int) -> None:
    """Raise StageError unless kept, dropped and failed candidates are those asked for and written.

    Asked for is what the schedule counted, written what the shards say, and the rest what the
    recorder decided row by row.
    """
    kept, written = counts.get("kept", 0), count_rows(context.output("candidates"))
    decided = sum(count for name, count in counts.items() if name != "written")
    if not num_asked == decided == counts["written"] == written:
        raise StageError(
            f"{context.name}: the candidates do not add up: {num_asked} asked for, {decided} kept,"
            f" dropped or failed, {written} written; this is a fault of r1pipe, not of the model"
        )
    if not kept and not counts.get("failed_unjudged"):  # a judge may keep some yet
        raise StageError(
            f"{context.name}: none of {num_asked} completions was kept; see the filters of its"
            " candidates, or train the sampling model longer"
        )


def note_all(
    context: Context, counts: Mapping[str, int], report: Mapping[str, Any], num_reused: int
) -> None:
    """Note what became of the candidates, what sampling cost, and which problems lost out."""
    sums = {
        name: sum(count for each, count in counts.items() if each.startswith(name))
        for name in ("kept", "dropped", "failed")
    }
    parts = {name: n for name, n in sorted(counts.items()) if name not in ("kept", "written")}
    context.note(
        rows=sums["kept"],
        sampled=counts["written"],
        **sums,
        **parts,
        sampled_tokens=report["tokens"],
        problems=report["problems"],
        problems_without_rows=sum(map(len, report["lost"].values())),
    )
    if num_reused:
        context.note(reused_candidates=num_reused)


def write_training_rows(context: Context, rows: Iterable[dict[str, Any]]) -> None:
    """Write the rows for training and show a few."""
    iterator = iter(rows)
    first = list(islice(iterator, NUM_SHOWN))
    for row in first:
        context.sample(prompt=row["prompt"], completion=row["completion"], gold=row["gold"])
    write_rows(context.output("rows"), chain(first, iterator), SCHEMA)
