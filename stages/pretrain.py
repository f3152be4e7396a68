"""A small base model from scratch.

Paper: none; it stands for DeepSeek-V3-Base in profiles that bring no model from outside.

In: `tokenizer`, `rows`. Out: `model`.

The loss is only on completions: with the loss on random questions too, a model of this size learns
nothing in as many tokens.

Run it with `r1pipe stage base`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from r1pipe.engine_settings import TrainRun
from r1pipe.settings import EpochParams
from r1pipe.stage import Context, Input, Inputs, StageModel

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, InfoMap

VERSION = 2
INPUTS = {"tokenizer": Input("tokenizer"), "rows": Input("rows")}
OUTPUTS = {"model": "model"}


class Architecture(StageModel):
    """Sizes of a Qwen3 model with tied embeddings."""

    hidden_size: int = Field(gt=0)
    num_layers: int = Field(gt=0)
    num_heads: int = Field(gt=0)
    """Attention heads; must divide hidden_size."""
    num_kv_heads: int = Field(gt=0)
    """Key and value heads; must divide num_heads."""
    intermediate_size: int = Field(gt=0)
    max_positions: int = Field(default=512, gt=0)
    """Longest sequence in tokens."""
    init_std: float = Field(default=0.02, gt=0)
    """Standard deviation of the initial weights; narrow models learn sooner with more."""


class Params(EpochParams):
    """Parameters that decide the model."""

    architecture: Architecture
    max_rows: int | None = Field(default=None, gt=0)
    """Rows used, from the first; default: all."""
    num_epochs: int = Field(default=1, gt=0)


class Run(TrainRun):
    """How it is computed."""


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Initialise from the seed and train on the rows."""
    from r1pipe.data.training_sequences import training_sequences
    from r1pipe.models.policy import load_tokenizer, new_model
    from r1pipe.train.conversations import TurnEncoder
    from r1pipe.train.supervised import fit

    tokenizer = load_tokenizer(inputs.path("tokenizer"))
    model = new_model(tokenizer, seed=params.seed, **params.architecture.model_dump())
    longest = params.architecture.max_positions
    sequences, facts = training_sequences(
        inputs.path("rows"), TurnEncoder(tokenizer), longest, max_rows=params.max_rows
    )
    context.note(**facts)
    fit(context, model.to(run.device), tokenizer, sequences, params, run)


def look(params: Params, inputs: Inputs) -> Mapping[str, str]:
    """Say what the first rows are taken for."""
    from r1pipe.data.training_rows import rows_found

    return {"rows": rows_found(inputs.path("rows"))} if "rows" in inputs else {}


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: passes over the rows with a new model."""
    from r1pipe.costs.models import new_model_info
    from r1pipe.costs.recipes import supervised

    model = new_model_info(params.architecture, inputs["tokenizer"].vocab_size)
    longest = params.architecture.max_positions
    rows = inputs["rows"]
    return supervised(params, run, model, rows, max_tokens=longest, max_rows=params.max_rows)
