"""How completions are sampled: the table of generators, and what sampling stages share."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from r1pipe.backends import Backends
from r1pipe.settings import ComputeRun, Placement, Precision
from r1pipe.stage import StageModel

GENERATORS = {
    "transformers": "r1pipe.generate.transformers_backend.TransformersSettings",
    "vllm": "r1pipe.generate.vllm_backend.VllmSettings",
    "openai": "r1pipe.generate.openai_backend.OpenAISettings",
}
"""Sampling backend -> its settings (`r1pipe.generate.protocol`)."""


class GeneratorSettings(StageModel):
    """Fields of all backends that sample."""

    package: ClassVar[str | None] = None  # what `plan --probe` needs to measure it

    backend: str

    @property
    def samples_policy(self) -> bool:
        """Whether it samples from the very model that is trained, not from weights of its own."""
        return False

    @property
    def is_driven(self) -> bool:
        """Whether one process has the samplers of a policy, however many train it."""
        return False

    @property
    def ranks_together(self) -> int:
        """How many processes of a trainer have a sampler together."""
        return 1

    def concurrency(self, max_batch: int) -> int:
        """Return how many completions are sampled at once; `max_batch` is that of the stage."""
        return max_batch

    def most_at_once(self, device: str, max_batch: int) -> int:
        """Return how many completions one engine samples at once, if it has room for them."""
        return self.concurrency(max_batch)

    def incompatible_on(self, device: str) -> str | None:
        """Say what to set if it cannot sample on a device of such a name; None if it can."""
        return None

    def incompatible_beside(self, num_processes: int) -> str | None:
        """Say what to set if it cannot sample inside each process of a trainer; None if it can."""
        return None

    def incompatible_ahead(self, num_processes: int) -> str | None:
        """Say what to set if it cannot sample while the policy trains; None if it can."""
        if num_processes > 1 and not self.is_driven:
            return (
                "run.engine.num_processes: rollouts are sampled ahead of a trainer of several"
                " processes by engines on a cluster; add run.generator.cluster: ray, leave"
                " params.staleness out, or train in one process"
            )
        return None

    def incompatible_with_tools(self, num_processes: int) -> str | None:
        """Say what to set if it cannot sample round by round for each process of a trainer."""
        if num_processes > 1 and (self.is_driven or self.ranks_together > 1):
            return (
                "run.generator: completions with params.tools are sampled round by round in each"
                " process of a trainer; leave cluster and tensor_parallel out, or train in one"
                " process"
            )
        return None

    def place(self, device: str, precision: Precision) -> Placement:
        """Return where sampling is done, for its cost."""
        return Placement(self.backend, device, is_bf16=precision == "bfloat16")


GENERATOR_BACKENDS = Backends("generator", GeneratorSettings, GENERATORS)


class Expected(StageModel):
    """What is known of a stage's work before it is done: `plan` takes it, and nothing else does."""

    completion_tokens: tuple[float, float] | None = None
    """Between how many tokens completions will have on average, such as `[200, 900]`; default: as
    in an earlier run, else as the problems say, else a share of `max_tokens`."""

    @field_validator("completion_tokens")
    @classmethod
    def _is_range(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0 < value[0] <= value[1] < math.inf:
            raise ValueError("give the least and the most, in this order, both above 0")
        return value


class SampleRun(ComputeRun):
    """How sampling is computed."""

    max_batch: int = Field(default=128, gt=0)
    """transformers: most completions decoded together; the workers share such batches."""
    generator: Annotated[GeneratorSettings, GENERATOR_BACKENDS] = Field(
        default_factory=GENERATOR_BACKENDS.default_settings
    )
    """transformers, vLLM or a server."""
    expect: Expected = Field(default_factory=Expected)
    """What `plan` should reckon with."""

    @model_validator(mode="after")
    def _samples_there(self) -> Self:
        if (message := self.generator.incompatible_on(self.device)) is not None:
            raise ValueError(message)
        return self
