"""Rejection sampling: several completions per problem, only verified and readable ones kept.

Paper: arXiv:2501.12948, section 2.3.3 (600k reasoning rows from the reasoning-RL checkpoint; mixed
languages, long paragraphs and code blocks dropped).

In: `model`, `problems`. Out: `rows` (kept, for training) and `candidates` (all, with each filter's
decision).

Departures: samples per problem, temperature and thresholds were never published; here they are
parameters.

Run alone: `r1pipe stage rejection-sample`; a killed run goes on with `--resume`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from r1pipe.settings import Keep, SampleRun
from r1pipe.stage import Context, Input, Inputs, StageModel

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, InfoMap

VERSION = 1
INPUTS = {"model": Input("model"), "problems": Input("problems")}
OUTPUTS = {"rows": "rows", "candidates": "rows"}


class Params(StageModel):
    """What decides the rows."""

    seed: int
    target_rows: int = Field(gt=0)
    """Kept rows wanted; sampling ends when there are so many. R1: 600,000."""
    samples_per_problem: int = Field(gt=0)
    """Completions per problem."""
    temperature: float = Field(default=1.0, gt=0)
    max_tokens: int = Field(gt=0)
    """Longest completion in tokens; R1: 32,768."""
    format: Literal["r1-zero", "chat"] = "chat"
    keep: Keep = Keep()
    problems_per_unit: int = Field(default=64, gt=0)
    """Problems sampled together: what a kill costs at most."""


class Run(SampleRun):
    """How it is computed."""


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Sample, verify, filter; write every candidate, and the kept ones as training rows."""
    from r1pipe.rl.candidates import collect, write_training_rows

    write_training_rows(context, collect(context, params, run, inputs, params.format))


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Say what `plan` says about it: completions until enough are kept."""
    from r1pipe.costs.recipes import candidates

    return candidates(params, run, inputs)
