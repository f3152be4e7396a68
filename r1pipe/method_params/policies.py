"""Parameters of the methods that train a policy on what it samples: stages are given them, the
algorithms read them. Nothing heavy is imported, so that `plan` stays light.
"""

from __future__ import annotations

from typing import Literal, Self, TypeAlias

from pydantic import Field, model_validator

from r1pipe.rewards.table import RewardName
from r1pipe.settings import (
    AdapterParams,
    Aggregation,
    FormatParam,
    Optimizer,
    Prompt,
    Tools,
)
from r1pipe.stage import StageModel

AdvantageStd: TypeAlias = Literal["population", "none"]
Advantage: TypeAlias = Literal[
    "group",
    "group-mean",
    "leave-one-out",
    "batch-mean",
    "batch",
    "group-batch",
    "reward",
    "indicator",
]
RatioLevel: TypeAlias = Literal["token", "sequence", "sequence-token"]
SurrogateName: TypeAlias = Literal["clip", "cispo", "none"]


class Preference(StageModel):
    """The last part of alignment RL: general prompts, scored by reward models."""

    from_step: int = Field(ge=0)
    """First update (from 0) whose rollout holds general prompts; R1: the last 400 of 1,700."""
    general_frac: float = Field(gt=0, le=1)
    """Share of the rollout's problems that are general prompts from then on."""


class AdaBack(StageModel):
    """AdaBack (arXiv:2506.18110): how much of its solution each problem is shown, by search."""

    threshold: float
    """Mean reward of a group from which less is shown; the paper finds 0.1 to 0.9 alike."""
    zero_frac: float = Field(default=0.1, ge=0, le=1)
    """Share of the draws that are shown nothing; the paper: 0.1."""
    average_weight: float = Field(default=0.1, gt=0, le=1)
    """Weight of a new interval in the moving averages, at which problems begin; ours."""


class R3(StageModel):
    """R3 (arXiv:2402.05808): solutions are shown up to one of so many places."""

    num_slices: int = Field(gt=0)
    """Parts of equal length that a solution is cut into."""
    is_staged: bool = False
    """Stage by stage, from all but one part to none, in place of all places at random."""


class RolloutParams(AdapterParams):
    """Parameters of every method that trains on what the policy samples."""

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
    dynamic_sampling: int | None = Field(default=None, gt=0)
    """DAPO's: groups of equal rewards are replaced by more problems, in at most so many draws of a
    rollout; what is missing then is filled with them. None: all groups are trained on."""
    adaback: AdaBack | None = None
    """Shows parts of worked solutions, as each problem needs."""
    r3: R3 | None = None
    """Shows parts of worked solutions, in fixed slices."""
    aggregation: Aggregation = "sequence-mean"
    """How token losses are summed: DeepSeekMath, DAPO, Dr. GRPO; `sequence-sum` is a mean over
    completions of sums (RLOO, REINFORCE)."""
    truncated: Literal["score", "mask"] = "score"
    """Completions cut at max_tokens: scored as they are, or out of the loss and its denominator."""
    temperature: float = Field(default=1.0, gt=0)
    """Of sampling and of the trainer's log-probabilities alike; R1: 1, in alignment RL 0.7."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Must be 1: the ratio needs the probability with which a token was drawn."""
    max_tokens: int = Field(gt=0)
    """Longest completion in tokens."""

    @model_validator(mode="after")
    def _makes_whole_rollouts(self) -> Self:
        per_rollout = self.minibatches_per_rollout
        if rest := self.num_steps % per_rollout:
            lower = self.num_steps - rest
            raise ValueError(
                f"num_steps {self.num_steps} is not a multiple of minibatches_per_rollout"
                f" {per_rollout}; use {lower or per_rollout} or {lower + per_rollout}"
            )
        return self

    @model_validator(mode="after")
    def _has_one_curriculum(self) -> Self:
        given = [n for n in ("dynamic_sampling", "adaback", "r3") if getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError(f"{given[0]} and {given[1]} are two curricula; leave one of them out")
        return self

    @model_validator(mode="after")
    def _draws_from_the_policy(self) -> Self:
        if self.top_p < 1:
            raise ValueError(
                f"top_p {self.top_p} draws from a cut distribution, whose probabilities are not"
                " the policy's: its ratios would be wrong; leave it at 1"
            )
        return self


class GrpoParams(RolloutParams):
    """Parameters that decide the trained policy."""

    preference: Preference | None = None
    tools: Tools | None = None
    """Programs in completions are run, and their output goes on in the completion, without loss."""
    process: Literal["rules", "model"] | None = None
    """Process supervision: every step of a completion is rewarded, by the `steps` of its task or by
    the process reward model of the input `process`. The summed `rewards` are one more step, at the
    last token. None: outcome supervision."""
    advantage: Advantage = "group"
    """From rewards to advantages: `group` (GRPO), `group-mean` (Dr. GRPO), `leave-one-out` (RLOO),
    `batch-mean` and `reward` (REINFORCE with a baseline and without), `batch` and `group-batch`
    (REINFORCE++ and its variant with a baseline), `indicator` (online RFT)."""
    advantage_std: AdvantageStd = "population"
    """Of `advantage: group`: divide by the group's standard deviation (GRPO) or not (Dr. GRPO)."""
    ratio: RatioLevel = "token"
    """Of a token (GRPO), or of its whole completion (GSPO): `sequence`, or with the same value and
    each token's own gradient, `sequence-token`."""
    surrogate: SurrogateName = "clip"
    """What is gained: `clip` (PPO, GRPO), `cispo` (the clipped ratio weighs log-probabilities and
    has no gradient), or `none` (REINFORCE: no ratio at all)."""
    clip_low: float = Field(gt=0)
    """The ratio is clipped below at 1 - clip_low; R1 prints 10, which never binds."""
    clip_high: float = Field(gt=0)
    """The ratio is clipped above at 1 + clip_high; R1 prints 10."""
    kl_coef: float = Field(ge=0)
    """Weight of the KL term; R1: 0.001. 0 needs no reference."""
    kl_in: Literal["loss", "reward", "advantage"] = "loss"
    """Where the KL term is: its k3 estimate in the loss of each token (GRPO); its k1 estimate,
    summed over the completion, taken off the reward (RLOO, REINFORCE++, PPO); or k1 of a token,
    negative, alone as its advantage (on-policy distillation, where the reference is a teacher)."""
    reference_refresh_steps: int = Field(default=400, gt=0)
    """The reference becomes the policy after so many updates (not rollouts); R1: 400."""
    entropy_coef: float | None = Field(default=None, ge=0)
    """Weight of the entropy of each token's distribution, a bonus; 0 logs it only, and None does
    not compute it."""
    sampler_truncation: float | None = Field(default=None, ge=1)
    """Truncated importance sampling: tokens weigh min(policy / sampler, this), which corrects for a
    sampler whose arithmetic is another than the trainer's, or whose weights are older. Costs a
    forward pass."""
    staleness: int = Field(default=0, ge=0)
    """Rollouts by which sampling is ahead: rollout n is sampled with the weights that n - staleness
    rollouts have trained, while the policy trains on earlier ones. 0: in turn."""

    @model_validator(mode="after")
    def _has_general_prompts(self) -> Self:
        per_rollout = self.problems_per_step * self.minibatches_per_rollout
        if self.preference and not self.num_general:
            share = self.preference.general_frac
            raise ValueError(
                f"preference.general_frac {share} of the {per_rollout} problems of a rollout rounds"
                f" to none; use at least {1 / per_rollout:.2g}, or leave preference out"
            )
        return self

    @model_validator(mode="after")
    def _has_one_estimator(self) -> Self:
        if self.advantage != "group" and self.advantage_std != "population":
            raise ValueError(
                f"advantage_std {self.advantage_std} is of `advantage: group`; with `advantage:"
                f" {self.advantage}` leave it out"
            )
        if self.process and self.estimator not in ("group", "group-mean"):
            raise ValueError(
                "process supervision normalises the steps of a group: `advantage:"
                f" {self.advantage}` is not defined for it; use group or group-mean"
            )
        if self.process and self.ratio == "sequence":
            raise ValueError(
                "ratio: sequence is of completions whose tokens have one advantage; with `process`"
                " use sequence-token, which has the same value"
            )
        if self.process and self.kl_in != "loss":
            raise ValueError(f"kl_in: {self.kl_in} is not of steps; with `process` use kl_in: loss")
        if self.dynamic_sampling and self.kl_in == "advantage":
            raise ValueError(
                "with kl_in: advantage rewards play no part; leave dynamic_sampling out"
            )
        if self.dynamic_sampling and self.kl_in == "reward" and self.kl_coef:
            raise ValueError(
                "with kl_in: reward no two completions have quite the same reward, so"
                " dynamic_sampling would leave no group out; use kl_in: loss, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _draws_as_the_preference_does(self) -> Self:
        if self.preference and self.dynamic_sampling:
            raise ValueError(
                "with dynamic_sampling the problems are not a function of the step, as"
                " `preference` has them; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _corrects_for_older_weights(self) -> Self:
        if self.staleness and self.sampler_truncation is None:
            raise ValueError(
                f"staleness {self.staleness} samples with older weights; correct for them by"
                " sampler_truncation, such as 2.0"
            )
        if self.staleness and self.kl_in != "loss":
            raise ValueError(
                f"kl_in: {self.kl_in} asks the reference, which staleness moves; use kl_in: loss"
            )
        return self

    @property
    def estimator(self) -> Advantage:
        """The table's name of what makes advantages: `advantage_std: none` is `group-mean`."""
        return "group-mean" if self.advantage_std == "none" else self.advantage

    @property
    def loss_kl_coef(self) -> float:
        """Weight of the KL term in the loss."""
        return self.kl_coef if self.kl_in == "loss" else 0.0

    @property
    def num_general(self) -> int:
        """How many problems of a rollout are general prompts, once they join."""
        share = self.preference.general_frac if self.preference else 0.0
        return round(self.problems_per_step * self.minibatches_per_rollout * share)


class OnlineRftParams(RolloutParams):
    """Parameters that decide the trained policy."""

    rewards: dict[RewardName, float] = Field(default={"accuracy": 1.0})
    """Rule rewards and their weights, summed; a completion with a sum above 0 is accepted. The
    paper's is the accuracy alone."""

    def as_grpo(self) -> GrpoParams:
        """Return the same as parameters of GRPO: Eq. 11 is its gradient with an indicator as
        advantage, without ratio, clip and KL term."""
        return GrpoParams(
            **{name: getattr(self, name) for name in type(self).model_fields},
            advantage="indicator",
            surrogate="none",
            clip_low=1.0,
            clip_high=1.0,
            kl_coef=0.0,
        )


class OnPolicyDistilParams(RolloutParams):
    """Parameters that decide the trained policy."""

    rewards: dict[RewardName, float] = Field(default={"accuracy": 1.0})
    """Rule rewards that are logged; the teacher decides alone."""
    aggregation: Aggregation = "token-mean"
    """How token losses are summed."""
    clip_low: float = Field(default=10.0, gt=0)
    """The ratio is clipped below at 1 - clip_low; the default never binds."""
    clip_high: float = Field(default=10.0, gt=0)
    """The ratio is clipped above at 1 + clip_high."""

    def as_grpo(self) -> GrpoParams:
        """Return the same as parameters of GRPO whose reference is the teacher."""
        return GrpoParams(
            **{name: getattr(self, name) for name in type(self).model_fields},
            kl_coef=1.0,
            kl_in="advantage",
            reference_refresh_steps=self.num_steps + 1,
        )


class PpoParams(RolloutParams):
    """Parameters that decide the trained policy and its critic."""

    aggregation: Aggregation = "token-mean"
    """How token losses are summed."""
    clip_low: float = Field(default=0.2, gt=0)
    """The ratio is clipped below at 1 - clip_low."""
    clip_high: float = Field(default=0.2, gt=0)
    """The ratio is clipped above at 1 + clip_high."""
    kl_coef: float = Field(default=0.05, ge=0)
    """Weight of the KL to the reference (k1), which is taken off each token's reward; 0 needs no
    reference."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """Discount of a token's reward at the token before."""
    gae_lambda: float = Field(default=1.0, ge=0, le=1)
    """Of generalized advantage estimation; R1 (v2, A.3) finds the usual 0.95 worse than 1."""
    whiten: bool = True
    """Whether the advantages of a rollout are scaled to mean 0 and variance 1."""
    value_clip: float | None = Field(default=0.2, gt=0)
    """How far a value may be from the rollout's in the critic's loss; None: as far as it is."""
    critic_optimizer: Optimizer | None = None
    """Of the critic; None: the policy's."""
    entropy_coef: float = Field(default=0.0, ge=0)
    """Weight of the entropy bonus; the entropy is logged in any case."""

    @model_validator(mode="after")
    def _has_its_own_credit(self) -> Self:
        if self.dynamic_sampling:
            raise ValueError(
                "dynamic_sampling leaves out groups of equal rewards, whose tokens have advantages"
                " under a critic; leave it out"
            )
        return self

    def as_grpo(self) -> GrpoParams:
        """Return the same as parameters of GRPO, whose loss it is; advantages are a critic's."""
        names = RolloutParams.model_fields.keys() | {"clip_low", "clip_high", "entropy_coef"}
        return GrpoParams(
            **{name: getattr(self, name) for name in sorted(names)},
            advantage="reward",
            kl_coef=self.kl_coef,
            kl_in="reward",
            reference_refresh_steps=self.num_steps + 1,
        )
