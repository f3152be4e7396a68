"""Evaluate one model: pass@k, maj@k, format, language, length, with bootstrap intervals.

Paper: arXiv:2501.12948, section 3 (pass@1 is the mean over k samples; temperature 0.6 and top-p
0.95 for large models; greedy decoding is discouraged; cons@64 is maj@64).

In: `model`, `problems` by benchmark name. Out: `report` (summary.json) and `samples` (all rows).
Problems whose gold answer does not verify against itself are not sampled; the report counts them.

Run it with `r1pipe stage eval-r1`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import starmap
from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from r1pipe.errors import StageError
from r1pipe.generator_settings import SampleRun
from r1pipe.records import Problem, Row
from r1pipe.settings import FormatParam, ModelParams, Prompt, Tools, VerifyRun, format_of
from r1pipe.stage import Context, Input, Inputs

if TYPE_CHECKING:
    from r1pipe.audit.golds import GoldReport
    from r1pipe.costs.work import Cost, InfoMap
    from r1pipe.generate.protocol import Request, Sampled
    from r1pipe.generate.units import FinishedUnit, PendingUnit
    from r1pipe.models.interfaces import Tokenizer

VERSION = 4
INPUTS = {"model": Input("model"), "problems": Input("problems", many=True)}
OUTPUTS = {"report": "report", "samples": "rows"}


class Params(ModelParams):
    """Parameters that decide the report."""

    seed: int
    format: FormatParam
    """Format that the model was trained in: `r1-zero`, `chat`, or an own one."""
    prompt: Prompt | None = None
    """A system message, and what follows every question."""
    tools: Tools | None = None
    """Programs in completions are run, and their output goes on in the completion."""
    num_samples: int = Field(gt=0)
    """Completions per problem."""
    temperature: float = Field(default=1.0, ge=0)
    """1 measures the policy itself; R1: 0.6."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """R1: 0.95."""
    max_tokens: int = Field(gt=0)
    """Longest completion in tokens."""
    num_resamples: int = Field(default=2000, gt=0)
    """Bootstrap resamples of problems."""
    problems_per_unit: int = Field(default=128, gt=0)
    """Problems sampled together: what a kill costs at most."""


class Run(SampleRun, VerifyRun):
    """How it is computed."""


class Unit(NamedTuple):
    """Problems of one benchmark that are sampled and verified together."""

    benchmark: str
    problems: Sequence[Problem]


class Answer(NamedTuple):
    """What the report needs of a completion."""

    text: str
    num_tokens: int
    finish_reason: str
    seed: int


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Sample every benchmark, verify, summarise."""
    golds = _golds(context, inputs)
    benchmarks = {name: found.usable for name, found in golds.items()}
    _sample(context, params, run, inputs, benchmarks)
    rows = _in_order(context.journal("samples").rows(), benchmarks)
    _report(context, params, rows, golds)


def _sample(
    context: Context,
    params: Params,
    run: Run,
    inputs: Inputs,
    benchmarks: Mapping[str, list[Problem]],
) -> None:
    """Sample and verify what is not in the journal yet; a unit goes there when it is whole."""
    from r1pipe.generate.backends import Prompts, open_generator
    from r1pipe.generate.failures import FailedUnits
    from r1pipe.generate.protocol import SamplingParams
    from r1pipe.generate.streaming import streaming
    from r1pipe.generate.tools import with_tools
    from r1pipe.generate.units import finished_units
    from r1pipe.models.prompts import max_positions
    from r1pipe.verify.code import sandboxed

    journal, failed = context.journal("samples"), FailedUnits()
    done, units = journal.done(), list(_units(benchmarks, params.problems_per_unit))
    listed = [problem for problems in benchmarks.values() for problem in problems]
    sampling = SamplingParams(params.temperature, params.top_p, params.max_tokens, logprobs=False)
    prompts = Prompts(listed, format_of(params.format, params.prompt), params.max_tokens)
    folder = inputs.path("model")
    with (
        sandboxed(context, run.sandbox, listed),
        open_generator(folder, run, params.precision, prompts) as (generator, tokenizer),
    ):
        positions, answers = max_positions(folder), Answers(tokenizer, params)
        sampler = with_tools(generator, tokenizer, params.tools, positions, run.max_batch)
        left = ((str(n), each) for n, each in enumerate(units) if str(n) not in done)
        with streaming(sampler, context, sampling, run.max_batch) as stream:
            pending = starmap(answers.pending, left)
            finished = finished_units(stream, pending, answers.read, failed)
            for count, unit in enumerate(finished, len(done) + 1):
                rows = _verified(unit, params)
                journal.append(unit.name, rows)
                right = sum(row["verdict"] == "correct" for row in rows) / len(rows)
                speed = unit.tokens_per_s
                context.log(count, len(units), pass_rate=right, tokens_per_s=speed)
                context.stop_if_asked()
    failed.check()


class Answers:
    """Problems as requests, and completions as answers."""

    def __init__(self, tokenizer: Tokenizer, params: Params) -> None:
        from r1pipe.models.prompts import opened_thought
        from r1pipe.models.tokenizer import decoder

        self.tokenizer = tokenizer
        self.decode = decoder(tokenizer)
        self.params = params
        self.format = format_of(params.format, params.prompt)
        self.opened = opened_thought(tokenizer, self.format)

    def pending(self, name: str, unit: Unit) -> PendingUnit[Unit]:
        """Return a unit with its requests."""
        from r1pipe.generate.group_requests import requests_of
        from r1pipe.generate.units import PendingUnit

        size, seeds = self.params.num_samples, [self.params.seed]
        requests = requests_of(self.tokenizer, unit.problems, size, self.format, seeds)
        return PendingUnit(name, unit, requests)

    def read(self, unit: Unit, request: Request, sampled: Sampled) -> Answer:
        """Return the answer that a completion is."""
        text = self.opened + self.decode(sampled.written_ids)
        reason = sampled.finish_reason.value
        return Answer(text, len(sampled.token_ids), reason, request.seed)


def _report(
    context: Context, params: Params, rows: Sequence[Row], golds: Mapping[str, GoldReport]
) -> None:
    """Write the samples and the summary; warn of what measures nothing."""
    from r1pipe.evaluation.warnings import completion_warnings
    from r1pipe.rows import write_rows

    summary = {
        name: _summary(rows, name, params) | {"unusable_golds": found.to_json()}
        for name, found in golds.items()
    }
    fmt = format_of(params.format, params.prompt)
    for name in golds:
        own = [row for row in rows if row["benchmark"] == name]
        for text in completion_warnings(own, name, fmt):
            context.warn(text)
    write_rows(context.output("samples"), rows)
    report = {"benchmarks": summary, "format": fmt.text, "temperature": params.temperature}
    text = json.dumps(report, indent=1, sort_keys=True)
    (context.output("report") / "summary.json").write_text(text + "\n")
    context.note(**{name: round(s["pass@1"]["value"], 4) for name, s in summary.items()})
    for row in rows[:: max(1, len(rows) // 8)]:
        context.sample(prompt=row["prompt"], completion=row["completion"], verdict=row["verdict"])


def _golds(context: Context, inputs: Inputs) -> dict[str, GoldReport]:
    """Return the problems of every benchmark, those with unusable gold answers set aside.

    Raises StageError if a benchmark has no other.
    """
    from r1pipe.audit.golds import check_golds
    from r1pipe.rows import read_problems

    golds = {
        name: check_golds(read_problems(path), max_unusable_frac=1.0)
        for name, path in sorted(inputs.paths("problems").items())
    }
    for name, found in golds.items():
        if not found.usable:
            raise StageError(
                f"{context.name}: benchmark {name}: no problem has a usable gold answer (first:"
                f" {next(iter(found.first()), 'there is no problem')}); correct them, or choose"
                " another checker"
            )
        if found.quarantined:
            context.warn(f"benchmark {name}: {found.warning()}")
    context.note(unusable_golds={name: found.to_json() for name, found in golds.items()})
    return golds


def _units(benchmarks: Mapping[str, list[Problem]], size: int) -> Iterator[Unit]:
    for name, problems in benchmarks.items():
        for start in range(0, len(problems), size):
            yield Unit(name, problems[start : start + size])


def _in_order(rows: Iterator[Row], benchmarks: Mapping[str, list[Problem]]) -> list[Row]:
    """Return the rows in the order of the problems: a journal has units as they ended."""
    problems = [(name, p.id) for name, listed in benchmarks.items() for p in listed]
    place = {problem: number for number, problem in enumerate(problems)}
    return sorted(rows, key=lambda row: place[row["benchmark"], row["problem_id"]])


def _verified(unit: FinishedUnit[Unit, Answer], params: Params) -> list[Row]:
    """Verify the completions of one unit."""
    from r1pipe.tasks.general import is_helpful
    from r1pipe.verify import verify_many
    from r1pipe.verify.reading.extract import extract_answer
    from r1pipe.verify.reading.recast import recast

    fmt, size = format_of(params.format, params.prompt), params.num_samples
    found = [
        (unit.item.problems[index // size], answer, recast(answer.text, fmt))
        for index, answer in sorted(unit.found.items())
    ]
    verdicts = verify_many((problem, plain) for problem, _, plain in found)
    return [
        {
            "benchmark": unit.item.benchmark,
            "problem_id": problem.id,
            "task": problem.task,
            "language": problem.language,
            "checker": problem.checker,
            "prompt": problem.prompt,
            "gold": problem.gold,
            "completion": answer.text,
            "extracted": extract_answer(plain),
            "verdict": str(verdict),
            "is_helpful": verdict == "correct" and is_helpful(problem, plain),
            "num_tokens": answer.num_tokens,
            "finish_reason": answer.finish_reason,
            "seed": answer.seed,
        }
        for (problem, answer, plain), verdict in zip(found, verdicts, strict=True)
    ]


def _summary(rows: Sequence[Row], benchmark: str, params: Params) -> Row:
    """Return one benchmark's measures, each task's pass@1, and every problem's mean scores."""
    from r1pipe.evaluation.metrics import mean_by_problem, pass_at_1, pass_by_problem, summarise

    own = [row for row in rows if row["benchmark"] == benchmark]
    tasks = sorted({row["task"] for row in own})
    fmt = format_of(params.format, params.prompt)
    summary = summarise(own, fmt=fmt, num_resamples=params.num_resamples)
    for task in tasks:
        part = [row for row in own if row["task"] == task]
        summary[f"pass@1 {task}"] = pass_at_1(part, num_resamples=params.num_resamples)
    summary["by_problem"] = {"pass@1": pass_by_problem(own)}
    if "general" in tasks or any(row["is_helpful"] for row in own):
        summary["by_problem"]["helpful"] = mean_by_problem(own, lambda row: row["is_helpful"])
    return summary


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: completions of every benchmark's problems."""
    from r1pipe.costs.recipes import benchmarks

    return benchmarks(params, run, inputs["model"], inputs["problems"])
