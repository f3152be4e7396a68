"""Cold-start data: R1-Zero's correct and readable traces, in the cold-start format.

Paper: arXiv:2501.12948v1, section 2.3.1, and v2, section B.3.2 (several traces per problem at
temperature 1; a correct answer, no repetition, no language mixing; then a readable summary).

In: `model` (R1-Zero), `problems`. Out: `rows` in the chat format, and `candidates` (all).

Departures: the paper lets DeepSeek-V3 rewrite thought and summary and people check them; here the
thought stays as sampled and the summary is a fixed sentence with the boxed answer in the language
of the question.

Run it with `r1pipe stage cold-start-data`.
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

    format: FormatParam = "r1-zero"
    """Format of the traces: what the sampling model was trained in."""
    rows_format: FormatParam = "chat"
    """Format of the rows, whose thoughts are those of the traces."""


class Run(CollectRun):
    """How it is computed."""


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Sample traces, keep correct and readable ones, put them into the cold-start format."""
    from r1pipe.rejection.collecting import collect, write_training_rows
    from r1pipe.rejection.rewriting import rewritten

    traces = collect(context, params, run, inputs, format_of(params.format, params.prompt))
    target = format_of(params.rows_format)
    write_training_rows(context, (rewritten(row, target) for row in traces))


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: completions until enough are kept."""
    from r1pipe.costs.recipes import candidates

    return candidates(params, run, inputs)
