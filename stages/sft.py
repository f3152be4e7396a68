"""Supervised fine-tuning: the cold start, the second SFT, and distillation.

Paper: arXiv:2501.12948, sections 2.3.1 (cold start), 2.3.3 (800k rows; it restarts from the base
model, not from the RL checkpoint) and 2.4 (distillation: only SFT, no RL). With rows of
`rejection-sample` it is RFT (arXiv:2402.03300, section 5.2.1): manifests/methods/rft.yaml.

In: `model` (the base), `rows` (r1pipe's own, or a source of any shape that `import-rows` knows).
Out: `model`.

Run it with `r1pipe stage cold-start-sft`, `r1pipe stage second-sft`, `r1pipe stage distil`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from r1pipe.engine_settings import TrainRun
from r1pipe.settings import AdapterParams, EpochParams, Tools
from r1pipe.stage import Context, Input, Inputs

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, InfoMap

VERSION = 2
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
    train_on: Literal["every-turn", "last-turn"] = "every-turn"
    """Which turns of the assistant are trained in a conversation."""
    aggregation: Literal["token-mean", "sequence-mean"] = "token-mean"
    """How token losses are summed: one mean over all of them, or first the mean over each
    sequence's tokens, as in DeepSeekMath's Eq. 6 and 8, where long answers count no more."""
    tools: Tools | None = None
    """Rows have programs and their outputs, as `rejection-sample` writes them with the same field;
    the tokens of an output have no loss."""
    max_bad_frac: float = Field(default=0.01, ge=0, le=1)
    """Share of rows that may be empty, null or not text; more than that stops the stage."""


class Run(TrainRun):
    """How it is computed."""


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Minimise the negative log-likelihood of what the assistant says, its ends included."""
    from r1pipe.data.training_sequences import training_sequences
    from r1pipe.models.policy import load_tokenizer, stored_end_ids
    from r1pipe.models.programs import outputs_with
    from r1pipe.train.backends import load_policy
    from r1pipe.train.conversations import TurnEncoder
    from r1pipe.train.supervised import fit

    tokenizer = load_tokenizer(inputs.path("model"))
    ends = stored_end_ids(inputs.path("model"), tokenizer)
    encoder = TurnEncoder(tokenizer, ends, outputs_with(params.tools))
    sequences, facts = training_sequences(
        inputs.path("rows"),
        encoder,
        params.max_tokens,
        train_on=params.train_on,
        max_bad_frac=params.max_bad_frac,
    )
    context.note(**facts)
    model = load_policy(inputs.path("model"), run, params, params.seed)
    fit(context, model, tokenizer, sequences, params, run, params.aggregation)


def look(params: Params, inputs: Inputs) -> Mapping[str, str]:
    """Say what the first rows are taken for."""
    from r1pipe.data.training_rows import rows_found

    return {"rows": rows_found(inputs.path("rows"))} if "rows" in inputs else {}


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: passes over the rows."""
    from r1pipe.costs.recipes import supervised

    rows = inputs["rows"]
    return supervised(params, run, inputs["model"], rows, max_tokens=params.max_tokens)
