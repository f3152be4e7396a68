"""The words in which a stage says what it will do: ranges, what goes in and out, work, cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1pipe.keys import JsonObject
from r1pipe.settings import Placement


@dataclass(frozen=True)
class Range:
    """Between `low` and `high`, both possible; `Range(x)` is known exactly."""

    low: float
    high: float = -1.0

    def __post_init__(self) -> None:
        if self.high == -1.0:
            object.__setattr__(self, "high", self.low)
        assert 0 <= self.low <= self.high, f"not a range: {self.low} to {self.high}"

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.high + other.high)

    def __mul__(self, other: Range | float) -> Range:
        factor = other if isinstance(other, Range) else Range(other)
        return Range(self.low * factor.low, self.high * factor.high)

    def at_most(self, limit: Range | float) -> Range:
        """Return the range with both ends cut at those of a limit."""
        top = limit if isinstance(limit, Range) else Range(limit)
        return Range(min(self.low, top.low), min(self.high, top.high))

    def to_json(self) -> list[float]:
        """Return [low, high]."""
        return [self.low, self.high]


NOTHING = Range(0.0)


@dataclass(frozen=True)
class Info:
    """What is known of an artifact before it exists; a report has no more than that."""


@dataclass(frozen=True)
class ModelInfo(Info):
    """Sizes of a decoder-only transformer, enough to count its parameters and operations.

    `num_parameters` are stored, `active_parameters` take part in one token's forward pass
    (`models.py` counts both); `kv_values` are kept per token and layer in the cache.
    """

    hidden_size: int
    num_layers: int
    intermediate_size: int
    vocab_size: int
    kv_values: int
    attention_size: int
    """Heads times their size: what one query is compared in."""
    num_parameters: int
    active_parameters: int
    num_heads: int | None = None
    """Attention heads, which devices share; None if only a size is known."""
    num_kv_heads: int | None = None
    """Heads of keys and values; None if they are not known."""
    tokenizer: Path | None = None
    """A folder with its tokenizer; None if it is not known. What a stage makes of a model keeps the
    tokenizer, unless its `cost` says otherwise."""

    @property
    def has_experts(self) -> bool:
        """Whether a token goes through a part of the parameters only."""
        return self.active_parameters < 0.9 * self.num_parameters


@dataclass(frozen=True)
class TokenizerInfo(Info):
    """A tokenizer of at most so many tokens."""

    vocab_size: int


@dataclass(frozen=True)
class RowsInfo(Info):
    """Rows of prompts and completions; tokens are means per row."""

    num_rows: Range
    prompt_tokens: Range
    completion_tokens: Range

    @property
    def tokens(self) -> Range:
        """Mean tokens of a row."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class ProblemsInfo(Info):
    """Problems; `completion_tokens` is the mean length of an answer with its thought, if that
    is known (None: as long as the model and `max_tokens` make it)."""

    num_problems: Range
    prompt_tokens: Range
    completion_tokens: Range | None


@dataclass(frozen=True)
class DatasetInfo(Info):
    """A data set from outside; None if nothing says how many rows it has."""

    num_rows: int | None


@dataclass(frozen=True)
class Training:
    """Forward and backward over `tokens` in so many `updates`.

    `scored_tokens` only go forward (a frozen reference); `frozen_copies` models of the same size
    stay beside the trained one, sharded as it is, and `whole_copies` (reward models) on every
    device. `mean_tokens` and `longest` are of a sequence, in tokens. `adapter_parameters` are those
    of an adapter, which alone is trained; under it the frozen linear layers may be quantized.
    """

    model: ModelInfo
    where: Placement
    tokens: Range
    updates: Range
    mean_tokens: float
    longest: int
    micro_batch_tokens: int
    scored_tokens: Range = NOTHING
    frozen_copies: int = 0
    whole_copies: float = 0
    adapter_parameters: int | None = None
    is_quantized: bool = False
    is_counted: bool = True
    """Whether its tokens are among those told as trained; a critic's are the policy's again."""

    @property
    def trained_parameters(self) -> int:
        """How many numbers have a gradient and moments."""
        whole = self.model.num_parameters
        return whole if self.adapter_parameters is None else self.adapter_parameters


@dataclass(frozen=True)
class SamplingWork:
    """`completions` sampled by engines that decode at most `at_once` each together, for `prompts`
    different prompts.

    `rounds`: how many times sampling starts and has to end before anything else happens.
    """

    model: ModelInfo
    where: Placement
    completions: Range
    prompts: Range
    prompt_tokens: Range
    completion_tokens: Range
    longest: int
    at_once: int
    rounds: Range = Range(1)
    waits: Range = NOTHING
    """Rounds whose last completion is waited for; it may have `longest` tokens."""
    extra_tokens: Range = NOTHING
    """Tokens around programs: read again to go on after one, or sampled past it and dropped."""

    @property
    def tokens(self) -> Range:
        """All sampled tokens."""
        return self.completions * self.completion_tokens


@dataclass(frozen=True)
class Cost:
    """What a stage will do and write. `other_s` and `held_bytes` are time (seconds) and memory
    besides training and sampling; `assumes` says, in words, what was not known."""

    outputs: Mapping[str, Info]
    training: tuple[Training, ...] = ()
    sampling: tuple[SamplingWork, ...] = ()
    other_s: Range = Range(0.0, 1.0)
    held_bytes: Range = NOTHING
    rollouts_ahead: int = 0
    """Rollouts, of which each but the first is sampled while the policy trains; 0: in turn."""
    assumes: tuple[str, ...] = ()

    @property
    def places(self) -> list[Placement]:
        """Where each training is done, and then each sampling."""
        return [work.where for work in self.training] + [work.where for work in self.sampling]

    def has_alone(self, work: SamplingWork) -> bool:
        """Return whether no model is trained on the devices of a sampling."""
        return not self.training or work.where.on_cluster


InfoMap = Mapping[str, Any]
"""Input name -> Info, or {label: Info} for an input that takes many; absent optionals are left
out."""


@dataclass(frozen=True)
class Estimate:
    """What a stage will cost on this machine.

    `peak_bytes` is per device (the process on a CPU), `disk_bytes` what stays in the store,
    `scratch_bytes` what an attempt needs on top while it runs. `assumes` says what was not known,
    `warnings` what will not work.
    """

    trained_tokens: Range = NOTHING
    sampled_tokens: Range = NOTHING
    seconds: Range = NOTHING
    peak_bytes: Range = NOTHING
    disk_bytes: Range = NOTHING
    scratch_bytes: Range = NOTHING
    device: str = "cpu"
    devices: int = 1
    assumes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def gpu_hours(self) -> Range:
        """Hours times GPUs; nothing on a CPU."""
        is_gpu = self.device.startswith("cuda")
        return self.seconds * (self.devices / 3600.0) if is_gpu else NOTHING

    def to_json(self) -> JsonObject:
        """Return plain values, ranges as [low, high]."""
        return {
            name: value.to_json() if isinstance(value, Range) else value
            for name, value in vars(self).items()
        }
