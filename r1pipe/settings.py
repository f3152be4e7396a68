"""Groups of fields that several kinds of stage share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from r1pipe.backends import Backends
from r1pipe.plugins.tables import TaskName
from r1pipe.ranks import Launch
from r1pipe.stage import StageModel


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


Precision: TypeAlias = Literal["float32", "bfloat16"]


class ModelParams(StageModel):
    """What decides every result that a model computes."""

    precision: Precision = "float32"
    """Of the model's arithmetic, in training and in sampling: float32, or bfloat16 (with float32
    weights in the optimizer)."""


class EpochParams(ModelParams):
    """What decides a model that passes over a data set train."""

    seed: int
    num_epochs: int = Field(gt=0)
    """Passes over the rows."""
    batch_size: int = Field(gt=0)
    """Rows of one update."""
    optimizer: Optimizer


class ComputeRun(StageModel):
    """On what a model is computed."""

    device: str = "cpu"
    """Where the model lives: `cpu`, `cuda`, `cuda:1`."""
    workers: int | None = Field(default=None, gt=0)
    """Threads that share a step on a CPU; where not said, one for each core, at most four."""


ENGINES = {
    "torch": "r1pipe.train.torch_backend.TorchSettings",
    "deepspeed": "r1pipe.train.deepspeed_backend.DeepSpeedSettings",
}
"""What trains: backend -> its settings (`r1pipe.train.protocol`)."""


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
    shards: int = 1
    """Devices that share one sampler's weights."""
    start_s: tuple[float, float] = (0.0, 0.0)
    """Least and most seconds of its own start: processes that import everything again, kernels,
    CUDA graphs."""
    has_own_weights: bool = False
    """Whether a sampler stays in memory beside the model that is trained."""
    memory_frac: float | None = None
    """Share of a GPU's memory that a sampler takes at once."""
    memory_frac_beside: float | None = None
    """The same beside a model that is trained."""
    cpu_bytes: tuple[int, int] | None = None
    """Least and most bytes of a sampler on a CPU besides its weights; None depends on the batch."""
    is_server: bool = False
    """Whether all this is done somewhere else."""


class EngineSettings(StageModel):
    """What all backends that train a model have."""

    package: ClassVar[str | None] = None  # what `plan --probe` needs to measure it

    backend: str
    activation_checkpointing: bool = False
    """Keep only each layer's input for the backward pass, and compute the layer again there."""
    attention: Literal["sdpa", "eager", "flash"] = "sdpa"
    """PyTorch's fused attention; plain matrix products, which keep all scores in memory and are
    faster for short rows on a CPU in bfloat16; or flash-attention (a GPU, bfloat16), which leaves
    out what packed rows mask."""
    kernels: Literal["torch", "liger"] = "torch"
    """Norms, rotations and gates by PyTorch, or by the fused kernels of liger-kernel (a GPU)."""

    @property
    def shards_weights(self) -> bool:
        """Whether no process holds the whole model."""
        return False

    def launch(self) -> Launch | None:
        """Return the processes to train in; None is the pipeline's own."""
        return None

    def place(self, device: str, precision: Precision) -> Placement:
        """Return where training is done, for its cost."""
        return Placement(
            self.backend,
            device,
            is_bf16=precision == "bfloat16",
            is_checkpointed=self.activation_checkpointing,
        )

    def incompatible_with(self, precision: Precision) -> str | None:
        """Say what to set if this engine cannot train in a precision; None if it can."""
        if self.attention == "flash" and precision == "float32":
            return (
                "run.engine.attention: flash computes in bfloat16 alone; set params.precision:"
                " bfloat16, or attention: sdpa"
            )
        return None


ENGINE_BACKENDS = Backends("engine", EngineSettings, ENGINES)


class EngineRun(ComputeRun):
    """How a model is trained: by what, in how many processes."""

    engine: Annotated[EngineSettings, ENGINE_BACKENDS] = Field(
        default_factory=ENGINE_BACKENDS.default_settings
    )
    """PyTorch or DeepSpeed."""

    def launch(self) -> Launch | None:
        """Return the processes to run in; None is the pipeline's own."""
        return self.engine.launch()

    def incompatible_with(self, params: ModelParams) -> str | None:
        """Say what to set if the engine cannot compute what the parameters ask for."""
        return self.engine.incompatible_with(params.precision)


class TrainRun(EngineRun):
    """How training is computed."""

    micro_batch_tokens: int = Field(default=768, gt=0)
    """Positions that go through the model at once; bounds memory. On a CPU several small
    micro-batches beat a large one: less padding, and the workers share them."""
    layout: Literal["padded", "packed"] = "padded"
    """Micro-batches of padded rows, or rows packed without cross-contamination: no padding but in
    attention, where sequences stand beside one another (with flash-attention none at all)."""


GENERATORS = {
    "transformers": "r1pipe.generate.transformers_backend.TransformersSettings",
    "vllm": "r1pipe.generate.vllm_backend.VllmSettings",
    "openai": "r1pipe.generate.openai_backend.OpenAISettings",
}
"""What samples: backend -> its settings (`r1pipe.generate.protocol`)."""


class GeneratorSettings(StageModel):
    """What all backends that sample have."""

    package: ClassVar[str | None] = None  # what `plan --probe` needs to measure it

    backend: str

    def concurrency(self, max_batch: int) -> int:
        """Return how many completions are sampled at once; `max_batch` is that of the stage."""
        return max_batch

    def place(self, device: str, precision: Precision) -> Placement:
        """Return where sampling is done, for its cost."""
        return Placement(self.backend, device, is_bf16=precision == "bfloat16")


GENERATOR_BACKENDS = Backends("generator", GeneratorSettings, GENERATORS)


class SampleRun(ComputeRun):
    """How sampling is computed."""

    max_batch: int = Field(default=128, gt=0)
    """transformers: most completions decoded together; the workers share such batches."""
    generator: Annotated[GeneratorSettings, GENERATOR_BACKENDS] = Field(
        default_factory=GENERATOR_BACKENDS.default_settings
    )
    """transformers, vLLM or a server."""


class World(StageModel):
    """A choice of synthetic problems."""

    mix: dict[TaskName, float]
    """Share of each task by name (arithmetic, choice, countdown, parity, general, safety, or a
    plugin's)."""
    languages: tuple[Literal["en", "zh"], ...] = ("en", "zh")
    """Languages of the wording, drawn uniformly."""
    levels: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    """Levels of each task, drawn uniformly; a task that is not named uses all of its own."""


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
