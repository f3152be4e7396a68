"""How stages that train a policy on what it samples are computed: none of it is in a key."""

from __future__ import annotations

from pydantic import Field

from r1pipe.engine_settings import TrainRun
from r1pipe.generate.openai_backend import OpenAISettings
from r1pipe.generator_settings import SampleRun
from r1pipe.method_params.policies import GrpoParams
from r1pipe.settings import ModelParams, VerifyRun
from r1pipe.stage import StageModel


class StopWhen(StageModel):
    """When a run pauses to be looked at; the same command goes on. None: never."""

    flat_updates: int | None = Field(default=None, gt=0)
    """Updates in a row in which every group is flat; with a critic, in which all rewards are
    equal."""
    still_updates: int | None = Field(default=None, gt=0)
    """Updates in a row in which the format or language reward stays exactly where it is, below
    1."""
    truncated: float | None = Field(default=None, gt=0, le=1)
    """Least share of the completions that are cut off at max_tokens."""
    filled: float | None = Field(default=None, gt=0, le=1)
    """Least share of the groups for which `dynamic_sampling` has found none whose rewards differ,
    so that flat ones fill the rollout."""
    kl: float | None = Field(default=None, gt=0)
    """Largest KL to the reference, in nats per token; needs a kl_coef."""
    in_a_row: int = Field(default=5, gt=0)
    """Updates in a row for which `truncated`, `filled` or `kl` must hold."""


class GrpoRun(TrainRun, SampleRun, VerifyRun):
    """How it is computed."""

    stop_when: StopWhen = StopWhen()
    """When the run pauses; what looks wrong is warned of in any case."""

    parity_tolerance: float | None = Field(default=None, gt=0)
    """Largest mean difference of sampler and trainer log-probabilities, checked before the first
    step if vllm samples; the default is 0.001 in float32 and 0.05 in bfloat16."""

    def incompatible_with(self, params: ModelParams) -> str | None:
        """Say what to set if engine, sampler or a condition to stop do not go with `params`."""
        has_reference = isinstance(params, GrpoParams) and params.kl_coef > 0
        if self.stop_when.kl is not None and not has_reference:
            return "run.stop_when.kl: there is no reference where params.kl_coef is 0; leave it out"
        num_processes = launch.num_processes if (launch := self.engine.launch()) else 1
        beside = self.generator.incompatible_beside(num_processes)
        if isinstance(params, GrpoParams) and params.staleness:
            beside = beside or self.generator.incompatible_ahead(num_processes)
        if isinstance(params, GrpoParams) and params.tools is not None:
            beside = beside or self.generator.incompatible_with_tools(num_processes)
        return beside or super().incompatible_with(params)


class OnPolicyDistilRun(GrpoRun):
    """How it is computed."""

    teacher: OpenAISettings | None = None
    """A server that has the model of `inputs.teacher` and gives log-probabilities of prompts, as
    `vllm serve` does; None: the teacher is computed here."""

    def incompatible_with(self, params: ModelParams) -> str | None:
        """Say what to set where a server cannot score the policy's tokens."""
        temperature = getattr(params, "temperature", 1.0)
        if self.teacher is not None and temperature != 1.0:
            return (
                f"run.teacher: servers score at temperature 1, and params.temperature is"
                f" {temperature:g}; set that to 1, or leave run.teacher out"
            )
        return super().incompatible_with(params)
