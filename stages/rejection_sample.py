"""Rejection sampling: several completions per problem, only verified and readable ones kept.

Paper: arXiv:2501.12948, section 2.3.3 (600k reasoning rows from the reasoning-RL checkpoint; mixed
languages, long paragraphs and code blocks dropped).

In: `model`, `problems`. Out: `rows` (kept, for training) and `candidates` (all, with each filter's
decision).

Departures: samples per problem, temperature and thresholds were never published; here they are
parameters.

Run it with `r1pipe stage rejection-sample`; a killed run goes on with `--resume`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from r1pipe.rejection.params import CollectRun, SampleParams
from r1pipe.settings import FormatParam, format_of
from r1pipe.stage import Context, Input, Inputs

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, InfoMap

VERSION = 3
INPUTS = {"model": Input("model"), "problems": Input("problems")}
OUTPUTS = {"rows": "rows", "candidates": "rows"}
EXTENDS = "target_rows"


class Params(SampleParams):
    """Parameters that decide the rows."""

    format: FormatParam = "chat"
    """Prompt and completion format: `r1-zero`, `chat`, or an own one."""
    rows_format: FormatParam | None = None
    """Format of the rows, written from the completions' thoughts and answers; by default rows are
    the completions as sampled. `chat` after a policy in the format `r1-zero`."""


class Run(CollectRun):
    """How it is computed."""


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Sample, verify, filter; write every candidate, and the kept ones as training rows."""
    from r1pipe.rejection.collecting import collect, write_training_rows
    from r1pipe.rejection.rewriting import rewritten

    rows = collect(context, params, run, inputs, format_of(params.format, params.prompt))
    if params.rows_format is not None:
        target = format_of(params.rows_format)
        rows = (rewritten(row, target) for row in rows)
    write_training_rows(context, rows)


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: completions until enough are kept."""
    from r1pipe.costs.recipes import candidates

    return candidates(params, run, inputs)
