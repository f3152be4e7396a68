"""Rejection sampling as a stream: problems in, requests out, completions verified meanwhile.

A unit is some problems with the same number of samples each. While units are sampled, what has
finished is verified by a candidate writer in another process, which fills the candidates' shards. A
verified unit goes into the attempt's journal, so a kill costs the units in flight. A resumed stage
plays the journal back through the same path; so does one whose target was raised, with the samples
of the previous result. Memory does not grow with the number of rows, but for sixteen bytes of each
kept one. `sampler.py` brings all this together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing

from r1pipe.audit.golds import check_golds
from r1pipe.candidates.candidate import SCHEMA, Origin
from r1pipe.candidates.quotas import Quotas
from r1pipe.candidates.report import write_report
from r1pipe.candidates.selection import kept_rows
from r1pipe.chat import AnyFormat
from r1pipe.errors import StageError
from r1pipe.generate.backends import Prompts, open_generator
from r1pipe.generate.protocol import SamplingParams
from r1pipe.generate.streaming import streaming
from r1pipe.generate.tools import with_tools
from r1pipe.keys import JsonObject
from r1pipe.models.prompts import max_positions
from r1pipe.records import Problem, Row
from r1pipe.rejection.fruitless import Fruitless
from r1pipe.rejection.params import CollectRun, SampleParams
from r1pipe.rejection.report import sampling_report
from r1pipe.rejection.sampler import RejectionSampler
from r1pipe.rejection.schedule import Schedule
from r1pipe.rejection.sources import GeneratedSamples
from r1pipe.rejection.writer import WriterSettings
from r1pipe.rejection.writer_process import CandidateWriterProcess
from r1pipe.rows import count_rows, read_problems, with_samples, write_rows
from r1pipe.stage import Context, Inputs
from r1pipe.verify import close_shared
from r1pipe.verify.code import sandboxed

MAX_NAMED = 20
SHOWN = ("prompt", "completion", "gold")
"""Columns of the rows that are shown."""


def collect(
    context: Context, params: SampleParams, run: CollectRun, inputs: Inputs, fmt: AnyFormat
) -> Iterator[Row]:
    """Sample, verify and write all candidates; then return the kept rows, read back from them.

    Raises StageError when nothing is kept, when too many gold answers are unusable, or when the
    candidates do not add up.
    """
    problems = usable_problems(context, read_problems(inputs.path("problems")), params)
    schedule = Schedule(problems, params)
    adaptive = params.adaptive
    settings = WriterSettings(
        Origin(fmt, params.temperature, str(context.input_ids["model"]), params.keep),
        adaptive.quotas if adaptive else Quotas(),
        params.target_rows,
        context.output("candidates"),
    )
    sampling = SamplingParams(params.temperature, 1.0, params.max_tokens, logprobs=False)
    model, prompts = inputs.path("model"), Prompts(problems, fmt, params.max_tokens)
    with (
        sandboxed(context, run.sandbox, problems),
        closing(CandidateWriterProcess(settings)) as writer,
        open_generator(model, run, params.precision, prompts) as (generator, tokenizer),
    ):
        positions = max_positions(inputs.path("model"))
        sampler = with_tools(generator, tokenizer, params.tools, positions, run.max_batch)
        with streaming(sampler, context, sampling, run.max_batch) as stream:
            source = GeneratedSamples(tokenizer, fmt, params.seed)
            collector = RejectionSampler(context, params, run, schedule, source, writer, stream)
            collector.run()
        counts = writer.finish()
    check_counts(context, counts, sum(schedule.num_samples))
    check_kept(context, counts, collector.fruitless)
    report = sampling_report(schedule, params.target_rows)
    if adaptive is not None:
        write_report(context.output("candidates"), report, adaptive.quotas)
        context.note(fixed_n=report["fixed_n"])
    note_all(context, counts, report, collector.num_reused, params.target_rows)
    return kept_rows(context.name, context.output("candidates"), counts.get("kept", 0))


def usable_problems(
    context: Context, problems: Sequence[Problem], params: SampleParams
) -> list[Problem]:
    """Return the problems whose gold answer verifies against itself; note which were set aside."""
    if len({problem.id for problem in problems}) != len(problems):
        twice = next(p.id for i, p in enumerate(problems) if p.id in {q.id for q in problems[:i]})
        raise StageError(f"{context.name}: problem {twice} comes twice; give each its own id")
    report = check_golds(problems, max_unusable_frac=params.max_unusable_frac)
    close_shared()  # the candidate writer has a pool of its own
    if report.quarantined:
        some = report.quarantined[:MAX_NAMED]
        context.note(
            quarantined=len(report.quarantined),
            quarantined_rate=round(report.rate, 6),
            quarantined_verdicts=report.counts(),
            quarantined_problems=[f"{p.id}: {p.gold[:80]!r} {v}" for p, v in some],
        )
    return report.usable


def check_counts(context: Context, counts: Mapping[str, int], num_asked: int) -> None:
    """Raise StageError unless kept, dropped and failed candidates are those asked for and written.

    Asked for is what the schedule counted, written what the shards say, and the rest what the
    candidate writer decided row by row.
    """
    written = count_rows(context.output("candidates"))
    decided = sum(count for name, count in counts.items() if name != "written")
    if not num_asked == decided == counts["written"] == written:
        raise StageError(
            f"{context.name}: the candidates do not add up: {num_asked} asked for, {decided} kept,"
            f" dropped or failed, {written} written; this is a fault of r1pipe, not of the model"
        )


def check_kept(context: Context, counts: Mapping[str, int], fruitless: Fruitless) -> None:
    """Raise StageError, with examples, if nothing was kept and no judge can keep any of it yet."""
    if not counts.get("kept") and not counts.get("failed_unjudged"):
        fruitless.keep_samples(context)
        raise StageError(
            f"{context.name}: {fruitless.text()}\nTake easier problems, more max_tokens, another"
            " format or prompt, or train the sampling model longer; `r1pipe try` shows its"
            " completions"
        )


def note_all(
    context: Context,
    counts: Mapping[str, int],
    report: JsonObject,
    num_reused: int,
    target_rows: int,
) -> None:
    """Note what became of the candidates, what sampling cost, and which problems have no row."""
    sums = {
        name: sum(count for each, count in counts.items() if each.startswith(name))
        for name in ("kept", "dropped", "failed")
    }
    parts = {name: n for name, n in sorted(counts.items()) if name not in ("kept", "written")}
    context.note(
        rows=sums["kept"],
        rows_short_of_target=max(0, target_rows - sums["kept"]),
        sampled=counts["written"],
        **sums,
        **parts,
        sampled_tokens=report["tokens"],
        problems=report["problems"],
        problems_without_rows=sum(map(len, report["lost"].values())),
    )
    if num_reused:
        context.note(reused_candidates=num_reused)


def write_training_rows(context: Context, rows: Iterable[Row]) -> None:
    """Write the rows for training and show a few."""
    shown = with_samples(context, rows, lambda row: {name: row[name] for name in SHOWN})
    write_rows(context.output("rows"), shown, SCHEMA)
