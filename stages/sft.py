"""Supervised fine-tuning: the cold start, the second SFT, and distillation.

Paper: arXiv:2501.12948, sections 2.3.1 (cold start), 2.3.3 (800k rows; it restarts from the base
model, not from the RL checkpoint) and 2.4 (distillation: only SFT, no RL).

In: `model` (the base), `rows`. Out: `model`.

Run it with `r1pipe stage cold-start-sft`, `r1pipe stage second-sft`, `r1pipe stage distil`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from r1pipe.engine_settings import TrainRun
from r1pipe.settings import AdapterParams, EpochParams
from r1pipe.stage import Context, Input, Inputs

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, InfoMap

VERSION = 1
INPUTS = {"model": Input("model"), "rows": Input("rows")}
OUTPUTS = {"model": "model"}


class Params(EpochParams, AdapterParams):
    """Parameters that decide the model."""

    num_epochs: int = Field(gt=0)
    """Passes over the rows; R1: 2 to 3."""
    batch_size: int = Field(gt=0)
    """Rows of one update; R1: 128, distillation 64."""
    max_tokens: int = Field(gt=0)
    """Rows longer than this many tokens are dropped and counted; R1: 32,768."""


class Run(TrainRun):
    """How it is computed."""


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Minimise the negative log-likelihood of the completions, end-of-sequence included."""

    from r1pipe.models.adapters import add_adapter
    from r1pipe.models.policy import load_tokenizer
    from r1pipe.train.backends import load_trained
    from r1pipe.train.supervised import fit, sequences_of

    model = load_trained(inputs.path("model"), run, params.precision)
    if params.adapter is not None:
        add_adapter(model, params.adapter, params.seed, params.precision)
    tokenizer = load_tokenizer(inputs.path("model"))
    sequences, too_long = sequences_of(tokenizer, inputs.path("rows"), params.max_tokens)
    context.note(too_long=too_long)
    fit(context, model, tokenizer, sequences, params, run)


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: passes over the rows."""
    from r1pipe.costs.recipes import supervised

    rows = inputs["rows"]
    return supervised(params, run, inputs["model"], rows, max_tokens=params.max_tokens)
