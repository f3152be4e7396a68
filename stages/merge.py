"""Merge models into one: the mean of their weights, or a weighted mean.

Paper: none of DeepSeek's. Model soups, arXiv:2203.05482, section 2 (uniform soup).

In: `models` by label, of one architecture, tokenizer and dtype. Out: `model`.

Each weight is sum_i a_i w_i, with shares a_i that sum to 1, summed in float32 in the order of the
labels and written in the models' dtype. Run it with `r1pipe stage soup`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from r1pipe.stage import Context, Input, Inputs, StageModel

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, InfoMap

VERSION = 1
INPUTS = {"models": Input("model", many=True)}
OUTPUTS = {"model": "model"}


class Params(StageModel):
    """Parameters that decide the model."""

    weights: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default_factory=dict
    )
    """Label of a model -> its weight, divided by their sum; without any, all count the same."""

    def named_labels(self) -> Mapping[str, Sequence[str]]:
        """Return the labels of models that have a weight."""
        return {"models": tuple(self.weights)} if self.weights else {}


class Run(StageModel):
    """Nothing to choose."""


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Check that the models are alike, then write their mean."""
    from r1pipe.models.merging import merge_models

    shares = merge_models(inputs.paths("models"), params.weights, context.output("model"))
    context.note(shares={label: round(share, 6) for label, share in shares.items()})


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: all models are read, one is written."""
    from r1pipe.costs.work import Cost, Range

    models = list(inputs["models"].values())
    size = Range(2.0, 4.0) * float(models[0].num_parameters)
    seconds = size * Range(1e-9, 2e-8) * float(len(models) + 1)
    return Cost({"model": models[0]}, other_s=seconds, held_bytes=size * Range(1, 2))
