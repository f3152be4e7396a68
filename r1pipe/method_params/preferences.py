"""Parameters of the methods that learn from preferences: reward models and DPO."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field, model_validator

from r1pipe.engine_settings import EngineRun
from r1pipe.settings import AdapterParams, EpochParams, ModelParams

ReadBy: TypeAlias = Literal["summary", "completion"]
"""What a reward model reads: the final summary only (helpfulness), or all (safety)."""
PreferenceObjective: TypeAlias = Literal["pairwise", "pointwise", "process"]
PairAggregation: TypeAlias = Literal["sequence-sum", "sequence-mean"]


class RewardModelParams(EpochParams):
    """Parameters that decide the reward model."""

    objective: PreferenceObjective
    """`pairwise`: Bradley-Terry on pairs; `pointwise`: cross-entropy on labels of texts; `process`:
    cross-entropy on labels of steps, each scored where it ends."""
    reads: ReadBy
    """What is scored: the final summary only, or all of the completion (`process` needs this)."""
    label: str = "is_safe"
    """Column of a text's label, for `pointwise`: true, false, or a number from 0 to 1."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Rows with a text longer than this many tokens, prompt included, are dropped and counted; R1:
    8,192."""
    num_epochs: int = Field(default=1, gt=0)
    batch_size: int = Field(gt=0)
    """Pairs or texts of one update; R1: 256."""

    @model_validator(mode="after")
    def _reads_where_steps_end(self) -> RewardModelParams:
        if self.objective == "process" and self.reads != "completion":
            raise ValueError("objective process reads steps of the thought; set reads: completion")
        return self


class RewardModelRun(EngineRun):
    """How it is computed."""

    examples_per_micro_batch: int = Field(default=16, gt=0)
    """Most pairs or texts that go through the model at once."""
    micro_batch_tokens: int = Field(default=16384, gt=0)
    """Most positions that go through the model at once, padding included; bounds memory."""

    def incompatible_with(self, params: ModelParams) -> str | None:
        """Say what to set if the engine cannot score steps."""
        is_process = isinstance(params, RewardModelParams) and params.objective == "process"
        if is_process and getattr(self.engine, "sequence_parallel", 1) > 1:
            return "run.engine.sequence_parallel: objective process needs whole rows; leave it out"
        return super().incompatible_with(params)


class DpoParams(EpochParams, AdapterParams):
    """Parameters that decide a policy trained on pairs."""

    num_epochs: int = Field(default=1, gt=0)
    batch_size: int = Field(gt=0)
    """Pairs of one update."""
    max_tokens: int = Field(gt=0)
    """Pairs with a text longer than this many tokens, prompt included, are dropped and counted."""
    beta: float = Field(default=0.1, gt=0)
    """How fast the loss of a pair falls with its margin; the larger, the nearer to the
    reference."""
    aggregation: PairAggregation = "sequence-sum"
    """How the tokens of a completion are summed: as they are (Rafailov et al., Eq. 7), or divided
    by their number (DeepSeekMath, Eq. 12), which takes a beta some times as large."""
    max_bad_frac: float = Field(default=0.01, ge=0, le=1)
    """Share of the pairs that may be untrainable; more than that stops the stage."""


class DpoRun(EngineRun):
    """How it is computed."""

    micro_batch_tokens: int = Field(default=1536, gt=0)
    """Most positions that go through the model at once, padding included; bounds memory. Chosen and
    rejected are of one micro-batch, so a pair may exceed it."""
    pairs_per_unit: int = Field(default=256, gt=0)
    """Pairs whose reference log-probabilities are computed together: what a kill costs at most."""
