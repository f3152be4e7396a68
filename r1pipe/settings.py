"""Groups of fields that several kinds of stage share."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from pydantic import Field, JsonValue, field_validator

from r1pipe.chat import CHAT, PRESETS, AnswerPlace, Format, FormatName
from r1pipe.plugins.tables import TaskName
from r1pipe.stage import StageModel
from r1pipe.text import excerpt

DEVICE = re.compile(r"(cpu|cuda)(:[0-9]{1,4})?", re.A)


class Optimizer(StageModel):
    """AdamW and its learning-rate schedule. Betas, decay, warm-up and clipping were not published;
    the defaults are ours."""

    lr: float = Field(gt=0)
    """Peak learning rate; R1's RL: 3e-6, SFT: 5e-5."""
    schedule: Literal["constant", "cosine"] = "constant"
    final_lr_frac: float = Field(default=0.1, ge=0, le=1)
    """Where a cosine ends, as a share of the peak; R1's SFT: 0.1."""
    warmup_steps: int = Field(default=0, ge=0)
    """Updates of linear warm-up."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""


Aggregation: TypeAlias = Literal["sequence-mean", "token-mean", "constant", "sequence-sum"]
"""How the losses of tokens are summed."""
Precision: TypeAlias = Literal["float32", "bfloat16"]


class ModelParams(StageModel):
    """Parameters of every result that a model computes."""

    precision: Precision = "float32"
    """Of the model's arithmetic, in training and in sampling: float32, or bfloat16 (with float32
    weights in the optimizer)."""


class Adapter(StageModel):
    """A low-rank adapter (LoRA, arXiv:2106.09685), trained in place of the weights."""

    rank: int = Field(gt=0)
    """Rank of what is added to a weight."""
    alpha: float = Field(gt=0)
    """What is added is scaled by alpha / rank."""
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Names of the layers, such as `q_proj`; by default all linear ones but the head."""
    dropout: float = Field(default=0.0, ge=0, le=0)
    """Must be 0: a trainer that draws masks computes other probabilities than the sampler."""
    merge: bool = True
    """Whether the model that is written has the adapter in its weights, or beside them."""
    quantize: Literal["nf4"] | None = None
    """`nf4` holds the frozen linear layers in four bits (QLoRA, arXiv:2305.14314): on a GPU, by the
    engine torch."""


class AdapterParams(ModelParams):
    """Parameters of a model that may be trained by an adapter."""

    adapter: Adapter | None = None
    """Trains a low-rank adapter in place of the weights."""


class EpochParams(ModelParams):
    """Parameters of a model trained by passes over a data set."""

    seed: int
    num_epochs: int = Field(gt=0)
    """Passes over the rows."""
    batch_size: int = Field(gt=0)
    """Rows of one update."""
    optimizer: Optimizer


class Prompt(StageModel):
    """What every prompt has beside the problem."""

    system: str = ""
    """The system message; in `r1-zero` it takes the place of the paper's passage."""
    suffix: str = ""
    """What follows every question on a line of its own, such as `Put the answer in \\boxed{}.`"""


class Tools(StageModel):
    """Python programs in completions are run in the sandbox, and what they print goes on in the
    completion (arXiv:2402.03300, sections 2.3 and 3)."""

    max_rounds: int = Field(default=4, gt=0)
    """Programs of one completion that are run; ours."""
    max_output_chars: int = Field(default=400, gt=0)
    """Longest output of a program; the rest is cut. Ours."""
    wall_s: float = Field(default=5.0, gt=0, le=60)
    """Seconds that a program may take."""
    ends: bool = False
    """Whether the output of the first program ends the completion, whose last line it is (program
    of thought)."""


class OwnFormat(Prompt):
    """A format of one's own, in the model's chat template."""

    think: tuple[str, str] | Literal["none"] = CHAT.think or "none"
    """What opens and closes the thought; `none` if the model writes none."""
    answer: AnswerPlace = CHAT.answer
    """Where the answer stands: in a box, in an answer tag, or on the last line."""
    options: dict[str, bool | int | str] = Field(default_factory=dict)
    """What the chat template is told besides, such as `enable_thinking: false`."""


FormatParam: TypeAlias = FormatName | OwnFormat
"""`params.format` of every stage that builds prompts or reads completions."""


def format_of(chosen: FormatParam, prompt: Prompt | None = None) -> Format:
    """Return the format that `params.format` and `params.prompt` ask for together."""
    if isinstance(chosen, OwnFormat):
        think = None if chosen.think == "none" else chosen.think
        options = tuple(sorted(chosen.options.items()))
        found = Format("chat", chosen.system, chosen.suffix, think, chosen.answer, options)
    else:
        found = PRESETS[chosen]
    if prompt is None:
        return found
    system, suffix = prompt.system or found.system, prompt.suffix or found.suffix
    return replace(found, system=system, suffix=suffix)


class ComputeRun(StageModel):
    """The device and threads that compute a model."""

    device: str = "cpu"
    """Device of the model: `cpu`, `cuda`, `cuda:1`."""
    workers: int | None = Field(default=None, gt=0)
    """Threads that share a step on a CPU; default: one for each core, at most four."""
    price_per_gpu_hour: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Of one GPU for an hour, in any currency: `plan` counts with it, and nothing else does."""

    @field_validator("device")
    @classmethod
    def _is_device(cls, device: str) -> str:
        if not DEVICE.fullmatch(device):
            raise ValueError(f"{excerpt(device, 40)} is no device; write cpu, cuda or cuda:1")
        return device


class VerifyRun(StageModel):
    """How answers that are programs are run."""

    sandbox: Literal["full", "weak"] = "full"
    """`weak` runs model-written programs on a machine that lacks layers of the sandbox, which
    `r1pipe doctor` names; `full` refuses to."""


@dataclass(frozen=True)
class Placement:
    """Where and how work is done, as far as its cost depends on it."""

    backend: str
    device: str = "cpu"
    processes: int = 1
    """Devices that share the work."""
    zero_stage: int = 0
    is_bf16: bool = False
    is_offloaded: bool = False
    is_checkpointed: bool = False
    """Activations are computed again in the backward pass."""
    sequence_parallel: int = 1
    """Devices that share the positions of each micro-batch."""
    neighbours: int = 1
    """Devices that keep all weights once more among them, besides the shards (ZeRO++)."""
    shards: int = 1
    """Devices that share one sampler's weights."""
    start_s: tuple[float, float] = (0.0, 0.0)
    """Least and most seconds of its own start: processes that import everything again, kernels,
    CUDA graphs."""
    has_own_weights: bool = False
    """Whether a sampler stays in memory beside the model that is trained."""
    sleeps: bool = False
    """Whether a sampler gives its memory back while the model beside it is trained."""
    memory_frac: float | None = None
    """Share of a GPU's memory that a sampler takes at once."""
    memory_frac_beside: float | None = None
    """The same beside a model that is trained."""
    max_seqs: int | None = None
    """Completions that one engine decodes together; None: as many as its cache has room for, up to
    vLLM's default for the GPU."""
    cache_bytes: int | None = None
    """Of keys and values in one engine on a GPU; None: what its share of the memory leaves."""
    cpu_bytes: tuple[int, int] | None = None
    """Least and most bytes of a sampler on a CPU besides its weights; None depends on the batch."""
    is_server: bool = False
    """Whether the work is done on another machine."""
    on_cluster: bool = False
    """Whether a cluster finds the devices, which may be other machines'."""
    threads: int = 1
    """Threads that share each device's work."""

    @property
    def engines(self) -> int:
        """Samplers side by side, each on the devices that share its weights."""
        return max(1, self.processes // self.shards)


class World(StageModel):
    """A choice of synthetic problems."""

    mix: dict[TaskName, float]
    """Share of each task by name (arithmetic, choice, countdown, parity, program, general,
    safety, a `gym:NAME` of reasoning-gym, or a plugin's)."""
    languages: tuple[Literal["en", "zh"], ...] = ("en", "zh")
    """Languages of the wording, drawn uniformly."""
    levels: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    """Levels of each task, drawn uniformly; a task that is not named uses all of its own."""
    configs: dict[str, tuple[dict[str, JsonValue], ...]] = Field(default_factory=dict)
    """Levels of `gym:` tasks, from 1: each the fields of the library's config; default: its own."""


class Keep(StageModel):
    """Which sampled completions are kept. No thresholds were published; these are ours."""

    min_language_share: float = Field(default=0.9, ge=0, le=1)
    """Least share of target-language words in the thought."""
    max_paragraph_chars: int = Field(default=4000, gt=0)
    """Longest paragraph of the thought, in characters."""
    code_blocks: bool = False
    """Whether a thought may hold a fenced code block."""
    max_repeats: int = Field(default=4, gt=0)
    """Most times that one block of text may follow itself in the thought."""
