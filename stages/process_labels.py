"""Labels of a completion's steps, by what a model makes of each prefix.

Paper: arXiv:2312.08935 (Math-Shepherd), section 3: from every step's end `num_continuations`
completions are sampled; the step is good if any of them is right (hard), or by the share that is
(soft). Its reward model is what process supervision in DeepSeekMath (arXiv:2402.03300, section
4.1.3) is trained like.

In: `candidates` (of rejection-sample, cold-start-data, reverify or judge), the `problems` that they
were sampled from, `model`, which goes on. Out: `rows` for a stage of kind reward-model with
`objective: process`: prompt, completion, and `steps`, a list of {end, label}, `end` in characters.

Departures: a step is a line of the completion; the line break after it is left to the model, which
may go on with the line. Candidates of one problem that begin alike share their continuations. The
last step has the completion's own verdict. Candidates that were cut at the token limit, or whose
verdict says nothing, are left out and counted, as continuations without a verdict are.

Run it with `r1pipe stage labels --manifest manifests/methods/process-rm.yaml`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from r1pipe.errors import StageError
from r1pipe.generator_settings import SampleRun
from r1pipe.settings import ModelParams, VerifyRun
from r1pipe.stage import Context, Input, Inputs

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, InfoMap
    from r1pipe.rejection.process_labels import Candidate

VERSION = 1
INPUTS = {"candidates": Input("rows"), "problems": Input("problems"), "model": Input("model")}
OUTPUTS = {"rows": "rows"}
COLUMNS = ("id", "problem_id", "prompt", "completion", "verdict", "finish_reason", "format")
SHOWN = ("prompt", "completion", "steps")
"""Columns of the rows that are shown."""


class Params(ModelParams):
    """Parameters that decide the labels."""

    seed: int
    num_continuations: int = Field(gt=0)
    """Continuations of each step's end; Math-Shepherd: 8."""
    labels: Literal["hard", "soft"] = "hard"
    """`hard`: 1 if any continuation is right; `soft`: the share that is."""
    temperature: float = Field(default=1.0, gt=0)
    max_tokens: int = Field(gt=0)
    """Longest continuation in tokens."""
    max_per_problem: int | None = Field(default=None, gt=0)
    """Most candidates of a problem, the first ones; default: all."""
    candidates_per_unit: int = Field(default=32, gt=0)
    """Candidates whose steps are continued together: what a kill costs at most."""


class Run(SampleRun, VerifyRun):
    """How it is computed."""


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Continue every step of every candidate, unit by unit, and write the labels."""
    from r1pipe.rejection.process_labels import labelled_rows
    from r1pipe.rows import check_columns, with_samples, write_rows

    check_columns(inputs.path("candidates"), COLUMNS, "give candidates of rejection-sample")
    counts = Counter[str]()
    num_candidates = sum(1 for _ in _chosen(context, params, inputs, counts))
    if not num_candidates:
        raise StageError(f"{context.name}: no candidate has steps to label ({dict(counts)})")
    _continue_all(context, params, run, inputs, num_candidates)
    journal = context.journal("steps")
    units = sorted(journal.done(), key=int)
    found = (json.loads(line) for unit in units for line in journal.lines(unit).splitlines())
    rows = labelled_rows(_chosen(context, params, inputs), found, params.labels, counts)
    shown = with_samples(context, rows, lambda row: {name: row[name] for name in SHOWN})
    num_rows = write_rows(context.output("rows"), shown)
    context.note(num_rows=num_rows, **counts)


def _chosen(
    context: Context, params: Params, inputs: Inputs, counts: Counter[str] | None = None
) -> Iterator[Candidate]:
    """Yield the candidates that get labels with their problems, in order; count the others."""
    from r1pipe.candidates.rejudge import with_problems
    from r1pipe.rejection.process_labels import why_left_out
    from r1pipe.rows import read_problems, read_rows

    problems = {problem.id: problem for problem in read_problems(inputs.path("problems"))}
    taken, left_out = Counter[str](), Counter[str]() if counts is None else counts
    rows = read_rows(inputs.path("candidates"))
    for row, problem in with_problems(context.name, rows, problems):
        reason = why_left_out(row)
        if reason is None and taken[problem.id] == params.max_per_problem:
            reason = "beyond_max_per_problem"
        if reason is not None:
            left_out[reason] += 1
            continue
        taken[problem.id] += 1
        yield row, problem


def _continue_all(
    context: Context, params: Params, run: Run, inputs: Inputs, num_candidates: int
) -> None:
    """Sample and verify what is not in the journal yet."""
    from r1pipe.generate.backends import open_generator
    from r1pipe.generate.failures import FailedUnits
    from r1pipe.generate.protocol import SamplingParams
    from r1pipe.generate.streaming import streaming
    from r1pipe.generate.units import PendingUnit, finished_units
    from r1pipe.rejection.process_labels import Continuer
    from r1pipe.rows import read_problems
    from r1pipe.verify.code import sandboxed

    journal, failed, size = context.journal("steps"), FailedUnits(), params.candidates_per_unit
    done, num_units = journal.done(), -(-num_candidates // size)
    if len(done) == num_units:
        return
    candidates = _chosen(context, params, inputs)
    sampling = SamplingParams(params.temperature, 1.0, params.max_tokens, logprobs=False)
    with (
        sandboxed(context, run.sandbox, read_problems(inputs.path("problems"))),
        open_generator(inputs.path("model"), run, params.precision) as (generator, tokenizer),
        streaming(generator, context, sampling, run.max_batch) as stream,
    ):
        continuer = Continuer(tokenizer, params.num_continuations, params.seed)
        batches = ((str(number), list(islice(candidates, size))) for number in range(num_units))
        units = ((name, continuer.unit(batch)) for name, batch in batches if name not in done)
        pending = (
            PendingUnit(name, unit, continuer.requests(unit.distinct)) for name, unit in units
        )
        finished = finished_units(stream, pending, continuer.text, failed)
        for count, unit in enumerate(finished, len(done) + 1):
            rows = continuer.rows(unit.item, unit.found)
            journal.append(unit.name, rows)
            context.log(count, num_units, steps=sum(len(row["steps"]) for row in rows))
            context.stop_if_asked()
    failed.check()


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: continuations of every step."""
    from r1pipe.costs.preferences import continuations

    return continuations(params, run, inputs)
