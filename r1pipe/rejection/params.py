"""The parameters shared by all stages that sample, verify and keep rows."""

from __future__ import annotations

from pydantic import Field

from r1pipe.candidates.quotas import Quotas
from r1pipe.generator_settings import SampleRun
from r1pipe.settings import Keep, ModelParams, Prompt, Tools, VerifyRun
from r1pipe.stage import StageModel


class Adaptive(StageModel):
    """Samples in rounds over all problems, and leaves those out that need no more samples."""

    samples_per_round: int = Field(default=2, gt=0)
    """Samples of each problem in one round; rounds end at `samples_per_problem`."""
    enough_rows: int = Field(default=4, gt=0)
    """A problem with so many different kept rows is sampled no more."""
    hopeless_after: int = Field(default=8, gt=0)
    """A problem without a kept row in so many samples is given up."""
    quotas: Quotas = Quotas()


class SampleParams(ModelParams):
    """Parameters that decide the sampled candidates and which of them are kept."""

    seed: int
    target_rows: int = Field(gt=0)
    """Kept rows wanted; sampling ends with the unit that reaches it. R1's rejection sampling:
    600,000, its cold start: thousands."""
    samples_per_problem: int = Field(gt=0)
    """Completions per problem; with `adaptive` the most of them."""
    temperature: float = Field(default=1.0, gt=0)
    """R1's cold start: 1."""
    max_tokens: int = Field(gt=0)
    """Longest completion in tokens; R1: 32,768."""
    keep: Keep = Keep()
    prompt: Prompt | None = None
    """A system message, and what follows every question."""
    tools: Tools | None = None
    """Programs in completions are run, and their output goes on in the completion; `sft` has the
    same field, which leaves outputs out of the loss."""
    problems_per_unit: int = Field(default=64, gt=0)
    """Problems sampled together: what a kill costs at most."""
    adaptive: Adaptive | None = None
    """Spends samples where they give rows; without it every problem has the same number."""
    max_unusable_frac: float = Field(default=0.01, ge=0, le=1)
    """Most problems, as a share, whose gold answer does not verify against itself; they are set
    aside before anything is sampled."""


class CollectRun(SampleRun, VerifyRun):
    """How candidates are sampled."""

    stop_without_rows: int | None = Field(default=256, gt=0)
    """Completions without a kept one after which the stage pauses; the same command samples as many
    again. null: never."""
