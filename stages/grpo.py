"""GRPO with rule rewards, and with reward models in the last part of the steps.

Paper: arXiv:2402.03300, section 4.1 (the algorithm); arXiv:2501.12948, sections 2.2 (R1-Zero),
2.3.2 (reasoning RL, with the language reward) and 2.3.4 (alignment RL).

In: `model`, `problems`; optionally `general` problems and the reward models `helpful` and `safety`.
Out: `model`, a Hugging Face directory.

Departures: the ratio is per token (DeepSeekMath, Eq. 3); problems, not single completions, are
drawn per rollout, and the minibatches split its completions at random; a preference reward is the
sigmoid of the reward model's score, since no scale was published.

Run alone: `r1pipe stage zero`, `r1pipe stage reasoning-rl`, `r1pipe stage alignment-rl`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from r1pipe.errors import StageError
from r1pipe.settings import ModelParams, Optimizer, SampleRun, TrainRun, check_whole_rollouts
from r1pipe.stage import Context, Input, Inputs, StageModel

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, InfoMap
    from r1pipe.rl.loop import GrpoPlan

VERSION = 1
INPUTS = {
    "model": Input("model"),
    "problems": Input("problems"),
    "general": Input("problems", optional=True),
    "helpful": Input("model", optional=True),
    "safety": Input("model", optional=True),
}
OUTPUTS = {"model": "model"}


class Preference(StageModel):
    """The last part of alignment RL: general prompts, scored by reward models."""

    from_step: int = Field(ge=0)
    """First update (from 0) whose rollout holds general prompts; R1: the last 400 of 1,700."""
    general_frac: float = Field(gt=0, le=1)
    """Share of the rollout's problems that are general prompts from then on."""


class Params(ModelParams):
    """What decides the policy that comes out."""

    seed: int
    format: Literal["r1-zero", "chat"]
    """Prompt and completion format."""
    num_steps: int = Field(gt=0)
    """Optimizer updates."""
    problems_per_step: int = Field(gt=0)
    """Problems of one update; R1: 32."""
    group_size: int = Field(gt=1)
    """Completions per problem; R1: 16."""
    minibatches_per_rollout: int = Field(default=1, gt=0)
    """Updates per rollout, in one pass over it; R1: 16."""
    optimizer: Optimizer
    rewards: dict[Literal["accuracy", "format", "language", "length"], float]
    """Rule rewards and their weights, summed; R1: all 1."""
    preference: Preference | None = None
    advantage_std: Literal["population", "none"] = "population"
    """Divide by the group's standard deviation (GRPO) or not (Dr. GRPO)."""
    aggregation: Literal["sequence-mean", "token-mean", "constant"] = "sequence-mean"
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
    def _draws_from_the_policy(self) -> Params:
        if self.top_p < 1:
            raise ValueError(
                f"top_p {self.top_p} draws from a cut distribution, whose probabilities are not"
                " the policy's: its ratios would be wrong; leave it at 1"
            )
        return self


class Run(TrainRun, SampleRun):
    """How it is computed."""

    parity_tolerance: float | None = Field(default=None, gt=0)
    """Largest mean difference of sampler and trainer log-probabilities, checked before the first
    step where vllm samples; where not said, 0.001 in float32 and 0.05 in bfloat16."""


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Train the policy, rollout by rollout (arXiv:2402.03300, Algorithm 1)."""
    from r1pipe.models.policy import load_tokenizer
    from r1pipe.rl.loop import train_grpo
    from r1pipe.rows import read_problems
    from r1pipe.train.backends import load_trained

    check_whole_rollouts(params.num_steps, params.minibatches_per_rollout, context.name)
    model = load_trained(inputs["model"], run, params.precision)
    tokenizer = load_tokenizer(inputs["model"])
    general = read_problems(inputs["general"]) if params.preference else []
    train_grpo(
        context,
        model,
        tokenizer,
        read_problems(inputs["problems"]),
        _plan(params, run),
        general=general,
        scorers=_scorers(params, run, inputs, context.name),
    )


def _plan(params: Params, run: Run) -> GrpoPlan:
    from r1pipe.rl.loop import GrpoPlan
    from r1pipe.rl.update import Objective

    return GrpoPlan(
        params=params,
        objective=Objective(
            temperature=params.temperature,
            clip_low=params.clip_low,
            clip_high=params.clip_high,
            kl_coef=params.kl_coef,
            aggregation=params.aggregation,
            constant_tokens=params.max_tokens,
            truncation=params.sampler_truncation,
        ),
        run=run,
    )


def _scorers(params: Params, run: Run, inputs: Inputs, name: str) -> dict[str, Any]:
    """Return the reward model of each general task; both are needed where there is a preference."""
    if params.preference is None:
        return {}
    missing = [i for i in ("general", "helpful", "safety") if i not in inputs]
    if missing:
        raise StageError(f"{name}: params.preference needs the inputs {', '.join(missing)}")
    from r1pipe.rl.reward_model import model_scorer

    return {
        "general": model_scorer(inputs["helpful"], "summary", run, params.precision),
        "safety": model_scorer(inputs["safety"], "completion", run, params.precision),
    }


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Say what `plan` says about it: rollouts, the reference's log-probabilities, updates."""
    from r1pipe.costs.recipes import rollouts

    return rollouts(params, run, inputs)
