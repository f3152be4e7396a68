"""The parameters of GRPO and of reward models: stages are given them, the algorithms read them.

Nothing heavy is imported, so that `plan` stays light.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field, model_validator

from r1pipe.engine_settings import EngineRun, TrainRun
from r1pipe.generator_settings import SampleRun
from r1pipe.rewards.table import RewardName
from r1pipe.settings import (
    AdapterParams,
    EpochParams,
    FormatParam,
    ModelParams,
    Optimizer,
    Prompt,
    VerifyRun,
)
from r1pipe.stage import StageModel

AdvantageStd: TypeAlias = Literal["population", "none"]
Aggregation: TypeAlias = Literal["sequence-mean", "token-mean", "constant"]

ReadBy: TypeAlias = Literal["summary", "completion"]
"""What a reward model reads: the final summary only (helpfulness), or all (safety)."""
PreferenceObjective: TypeAlias = Literal["pairwise", "pointwise"]


class Preference(StageModel):
    """The last part of alignment RL: general prompts, scored by reward models."""

    from_step: int = Field(ge=0)
    """First update (from 0) whose rollout holds general prompts; R1: the last 400 of 1,700."""
    general_frac: float = Field(gt=0, le=1)
    """Share of the rollout's problems that are general prompts from then on."""


class GrpoParams(AdapterParams):
    """Parameters that decide the trained policy."""

    seed: int
    format: FormatParam
    """Prompt and completion format: `r1-zero`, `chat`, or an own one."""
    prompt: Prompt | None = None
    """A system message, and what follows every question."""
    num_steps: int = Field(gt=0)
    """Optimizer updates."""
    problems_per_step: int = Field(gt=0)
    """Problems of one update; R1: 32."""
    group_size: int = Field(gt=1)
    """Completions per problem; R1: 16."""
    minibatches_per_rollout: int = Field(default=1, gt=0)
    """Updates per rollout, in one pass over it; R1: 16."""
    optimizer: Optimizer
    rewards: dict[RewardName, float]
    """Rule rewards and their weights, summed; R1: all 1."""
    preference: Preference | None = None
    advantage_std: AdvantageStd = "population"
    """Divide by the group's standard deviation (GRPO) or not (Dr. GRPO)."""
    aggregation: Aggregation = "sequence-mean"
    """How token losses are summed: DeepSeekMath, DAPO, Dr. GRPO."""
    clip_low: float = Field(gt=0)
    """The ratio is clipped below at 1 - clip_low; R1 prints 10, which never binds."""
    clip_high: float = Field(gt=0)
    """The ratio is clipped above at 1 + clip_high; R1 prints 10."""
    kl_coef: float = Field(ge=0)
    """Weight of the k3 KL term in the loss; R1: 0.001. 0 needs no reference."""
    reference_refresh_steps: int = Field(default=400, gt=0)
    """The reference becomes the policy after so many updates (not rollouts); R1: 400."""
    truncated: Literal["score", "mask"] = "score"
    """Completions cut at max_tokens: scored as they are, or out of the loss and its denominator."""
    temperature: float = Field(default=1.0, gt=0)
    """Of sampling and of the trainer's log-probabilities alike; R1: 1, in alignment RL 0.7."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Must be 1: the ratio needs the probability with which a token was drawn."""
    sampler_truncation: float | None = Field(default=None, ge=1)
    """Truncated importance sampling: tokens weigh min(policy / sampler, this), which corrects for a
    sampler whose arithmetic is another than the trainer's. Costs a forward pass."""
    max_tokens: int = Field(gt=0)
    """Longest completion in tokens."""

    @model_validator(mode="after")
    def _makes_whole_rollouts(self) -> GrpoParams:
        per_rollout = self.minibatches_per_rollout
        if rest := self.num_steps % per_rollout:
            lower = self.num_steps - rest
            raise ValueError(
                f"num_steps {self.num_steps} is not a multiple of minibatches_per_rollout"
                f" {per_rollout}; use {lower or per_rollout} or {lower + per_rollout}"
            )
        return self

    @model_validator(mode="after")
    def _has_general_prompts(self) -> GrpoParams:
        per_rollout = self.problems_per_step * self.minibatches_per_rollout
        if self.preference and not self.num_general:
            share = self.preference.general_frac
            raise ValueError(
                f"preference.general_frac {share} of the {per_rollout} problems of a rollout rounds"
                f" to none; use at least {1 / per_rollout:.2g}, or leave preference out"
            )
        return self

    @property
    def num_general(self) -> int:
        """How many problems of a rollout are general prompts, once they join."""
        share = self.preference.general_frac if self.preference else 0.0
        return round(self.problems_per_step * self.minibatches_per_rollout * share)

    @model_validator(mode="after")
    def _draws_from_the_policy(self) -> GrpoParams:
        if self.top_p < 1:
            raise ValueError(
                f"top_p {self.top_p} draws from a cut distribution, whose probabilities are not"
                " the policy's: its ratios would be wrong; leave it at 1"
            )
        return self


class StopWhen(StageModel):
    """When a run pauses to be looked at; the same command goes on. None: never."""

    flat_updates: int | None = Field(default=None, gt=0)
    """Updates in a row in which every group is flat."""
    still_updates: int | None = Field(default=None, gt=0)
    """Updates in a row in which the format or language reward stays exactly where it is, below
    1."""
    truncated: float | None = Field(default=None, gt=0, le=1)
    """Least share of the completions that are cut off at max_tokens."""
    kl: float | None = Field(default=None, gt=0)
    """Largest KL to the reference, in nats per token; needs a kl_coef."""
    in_a_row: int = Field(default=5, gt=0)
    """Updates in a row for which `truncated` or `kl` must hold."""


class GrpoRun(TrainRun, SampleRun, VerifyRun):
    """How it is computed."""

    stop_when: StopWhen = StopWhen()
    """When the run pauses; what looks wrong is warned of in any case."""

    parity_tolerance: float | None = Field(default=None, gt=0)
    """Largest mean difference of sampler and trainer log-probabilities, checked before the first
    step if vllm samples; the default is 0.001 in float32 and 0.05 in bfloat16."""

    def incompatible_with(self, params: ModelParams) -> str | None:
        """Say what to set if the engine, or a condition to stop, does not go with `params`."""
        if isinstance(params, GrpoParams) and self.stop_when.kl is not None and not params.kl_coef:
            return "run.stop_when.kl: there is no reference where params.kl_coef is 0; leave it out"
        return super().incompatible_with(params)


class RewardModelParams(EpochParams):
    """Parameters that decide the reward model."""

    objective: PreferenceObjective
    """Bradley-Terry on pairs, or cross-entropy on labels."""
    reads: ReadBy
    """What is scored: the final summary only, or all of the completion."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Rows with a text longer than this many tokens, prompt included, are dropped and counted; R1:
    8,192."""
    num_epochs: int = Field(default=1, gt=0)
    batch_size: int = Field(gt=0)
    """Pairs or texts of one update; R1: 256."""


class RewardModelRun(EngineRun):
    """How it is computed."""

    examples_per_micro_batch: int = Field(default=16, gt=0)
    """Most pairs or texts that go through the model at once."""
    micro_batch_tokens: int = Field(default=16384, gt=0)
    """Most positions that go through the model at once, padding included; bounds memory."""
