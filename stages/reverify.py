"""Verify existing candidates again with the present verifier; nothing is sampled again.

Paper: arXiv:2501.12948, section 2.3.3 keeps verified rows; a verifier that is mended afterwards
should not cost the sampling a second time.

In: `candidates` (of rejection-sample, or of another reverify) and the `problems` that they were
sampled from. Out: `rows` and `candidates` of the same shape, and `flips` (flips.json, and every
flipped candidate as a row).

The version of the verifier is part of VERSION, so a new verifier is a new key. Unless `keep` is
given, the filters other than the verdict stay as they were decided; what depends on the rows kept
before (repeats, quotas, the target) is decided again.

Run it with `r1pipe stage reverify --manifest manifests/reverify.yaml`; a killed run goes on with
`--resume`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from r1pipe.candidates.quotas import Quotas
from r1pipe.errors import StageError
from r1pipe.records import Row
from r1pipe.settings import Keep, VerifyRun
from r1pipe.stage import Context, Input, Inputs, StageModel
from r1pipe.verify import VERIFIER_VERSION

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, InfoMap

VERSION = 1000 * VERIFIER_VERSION + 2
INPUTS = {"candidates": Input("rows"), "problems": Input("problems")}
OUTPUTS = {"rows": "rows", "candidates": "rows", "flips": "report"}
ROWS_PER_UNIT = 5_000
"""Candidates whose verdicts go into the journal together: what a kill costs."""


class Params(StageModel):
    """Parameters that decide the verdicts."""

    target_rows: int | None = Field(default=None, gt=0)
    """Most kept rows, in the candidates' order; without it all."""
    keep: Keep | None = None
    """Thresholds to decide all filters again; without it only the verdict is."""
    quotas: Quotas | None = None
    """Most kept rows by task, level and length; without it those that adaptive sampling had."""
    timeout_s: float = Field(default=3.0, gt=0)
    """Time limit of one pair that needs algebra, in seconds."""


class Run(VerifyRun):
    """How it is computed."""

    workers: int = Field(default=0, ge=0)
    """Processes that verify what needs algebra; 0 means two."""


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Verify every candidate, write the kept view of them, and compare with what was there."""
    from r1pipe.candidates.reverify import report_flips
    from r1pipe.rows import read_problems, read_rows, schema_of, write_rows
    from r1pipe.verify.code import sandboxed

    before, after = inputs.path("candidates"), context.output("candidates")
    schema = schema_of(before)
    with sandboxed(context, run.sandbox, read_problems(inputs.path("problems"))):
        count = write_rows(after, _verified(context, params, run, inputs), schema)
    rows = write_rows(context.output("rows"), read_rows(after, only="kept"), schema)
    report = report_flips(read_rows(before), read_rows(after), context.output("flips"))
    if not rows:
        raise StageError(
            f"{context.name}: none of {count} candidates is kept (verdicts that changed:"
            f" {report['verdicts_changed'] or 'none'}); give other thresholds with params.keep"
        )
    _tell(context, report, rows)


def _verified(context: Context, params: Params, run: Run, inputs: Inputs) -> Iterator[Row]:
    """Yield the candidates verified again; the report on how they were sampled goes with them."""
    from r1pipe.candidates.rejudge import quotas_in_force
    from r1pipe.candidates.reverify import ReverifySettings, reverified
    from r1pipe.rows import count_rows, read_problems, read_rows

    folder = inputs.path("candidates")
    quotas = quotas_in_force(folder, context.output("candidates"), params.quotas)
    terms = ReverifySettings(
        params.keep, quotas, params.target_rows, params.timeout_s, run.workers, ROWS_PER_UNIT
    )
    problems = {problem.id: problem for problem in read_problems(inputs.path("problems"))}
    journal = context.journal("verdicts")
    num_known = ROWS_PER_UNIT * len(journal.done())
    rows = reverified(context.name, read_rows(folder), problems, journal, terms)
    return _watched(rows, context, num_known, count_rows(folder))


def _watched(rows: Iterator[Row], context: Context, num_known: int, num_all: int) -> Iterator[Row]:
    """Pass rows on, log how many were verified now, and stop if that was asked for."""
    correct, units = 0, num_all // ROWS_PER_UNIT
    for count, row in enumerate(rows, start=1):
        correct += row["verdict"] == "correct"
        if count % ROWS_PER_UNIT == 0 and count > num_known:
            unit = count // ROWS_PER_UNIT
            context.log(unit, units, judged=float(count), pass_rate=correct / count)
            context.stop_if_asked()
        yield row


def _tell(context: Context, report: Row, rows: int) -> None:
    """Note the counts, and show an example of every kind of flip."""
    context.note(rows=rows, **{name: value for name, value in report.items() if name != "examples"})
    for kind, examples in report["examples"].items():
        for example in examples[:1]:
            context.sample(flip=kind, **example)


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: every candidate is verified once more."""
    from r1pipe.costs.work import Cost, Info, Range

    found = inputs["candidates"]
    outputs = {"rows": found, "candidates": found, "flips": Info()}
    return Cost(outputs, other_s=found.num_rows * Range(2e-5, 5e-3))
