"""The fields of stages' parameters and run settings that decide their cost.

Stage files are loaded by path and what they are made of imports torch, so `plan` knows their models
by these fields only.
"""

from __future__ import annotations

from typing import Protocol

from r1pipe.engine_settings import EngineSettings
from r1pipe.generator_settings import Expected, GeneratorSettings
from r1pipe.settings import Adapter, Precision, Tools, World


class Trains(Protocol):
    """Run settings of a stage that trains."""

    device: str
    workers: int | None
    engine: EngineSettings


class Samples(Protocol):
    """Run settings of a stage that samples."""

    device: str
    workers: int | None
    max_batch: int
    generator: GeneratorSettings
    expect: Expected


class TrainsRows(Trains, Protocol):
    """Run settings of training in micro-batches of so many positions."""

    micro_batch_tokens: int


class TrainsTexts(Trains, Protocol):
    """Run settings of a reward model's training."""

    examples_per_micro_batch: int
    micro_batch_tokens: int


class RollsOut(TrainsRows, Samples, Protocol):
    """Run settings of GRPO."""


class DistilsOnPolicy(RollsOut, Protocol):
    """Run settings of on-policy distillation."""

    @property
    def teacher(self) -> object | None:
        """The server that has the teacher, if it is not here."""


class Computes(Protocol):
    """Parameters of every stage that runs a model."""

    precision: Precision


class Passes(Computes, Protocol):
    """Parameters of passes over rows."""

    num_epochs: int
    batch_size: int


class PairPasses(Passes, Protocol):
    """Parameters of passes over pairs of texts of at most so many tokens each."""

    max_tokens: int


class Completes(Computes, Protocol):
    """Parameters of every stage that samples."""

    max_tokens: int


class RunsPrograms(Completes, Protocol):
    """Parameters of sampling in which completions may run programs."""

    @property
    def tools(self) -> Tools | None:
        """Whether they do, and how many."""


class Candidates(RunsPrograms, Protocol):
    """Parameters of sampling candidates until enough are kept."""

    target_rows: int
    samples_per_problem: int
    problems_per_unit: int

    @property
    def adaptive(self) -> object | None:
        """Whether problems that have enough rows get no more samples."""


class AsRollouts(Protocol):
    """Parameters of PPO and of on-policy distillation."""

    def as_grpo(self) -> Rollouts:
        """Return those of its rollouts and of its policy."""


class ShowsIntervals(Protocol):
    """Settings of AdaBack."""

    zero_frac: float


class ShowsSlices(Protocol):
    """Settings of R3."""

    num_slices: int


class Rollouts(RunsPrograms, Protocol):
    """Parameters of GRPO."""

    num_steps: int
    problems_per_step: int
    group_size: int
    minibatches_per_rollout: int
    kl_coef: float
    staleness: int

    @property
    def adapter(self) -> Adapter | None:
        """The adapter that is trained in place of the weights."""

    @property
    def dynamic_sampling(self) -> int | None:
        """Most draws of a rollout, if flat groups are replaced."""

    @property
    def adaback(self) -> ShowsIntervals | None:
        """How parts of solutions are shown by search, if they are."""

    @property
    def r3(self) -> ShowsSlices | None:
        """How parts of solutions are shown by slices, if they are."""

    @property
    def sampler_truncation(self) -> float | None:
        """Where weights are cut that correct for the sampler, if they are taken."""

    @property
    def process(self) -> str | None:
        """How steps are rewarded, if they are."""

    @property
    def preference(self) -> object | None:
        """Whether two reward models score some of the rollouts."""


class Benchmarks(RunsPrograms, Protocol):
    """Parameters of an evaluation."""

    num_samples: int
    problems_per_unit: int


class Continuations(Completes, Protocol):
    """Parameters of labels of steps."""

    num_continuations: int
    candidates_per_unit: int


class Replies(Completes, Protocol):
    """Parameters of an LLM judge."""

    votes: int
    candidates_per_unit: int
    target_rows: int | None


class Corpus(Protocol):
    """Parameters of rows by the synthetic author."""

    world: World | None
    thought_frac: float
    unformatted_frac: float

    @property
    def format(self) -> object:
        """`r1-zero`, `chat`, or an own one."""


class Sizes(Protocol):
    """The architecture of a model from scratch."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
