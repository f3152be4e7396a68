"""Groups of fields that several kinds of stage share."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field, model_validator

from r1pipe.errors import StageError
from r1pipe.ranks import Launch, Launcher
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


class EngineSettings(StageModel):
    """What trains: plain PyTorch in this process, or DeepSpeed in processes of its own."""

    backend: Literal["torch", "deepspeed"] = "torch"
    num_processes: int = Field(default=1, gt=0)
    """Processes on all nodes together; one for each GPU."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """What is divided among them: 1 optimizer state, 2 gradients too, 3 weights too."""
    offload: Literal["none", "optimizer", "parameters"] = "none"
    """What lies in the memory of the CPU: optimizer state, or (ZeRO 3) weights too."""
    sequence_parallel: int = Field(default=1, gt=0)
    """Processes that share each micro-batch, for long contexts: each holds its part of the
    positions (Ulysses). Divides num_processes and the model's attention heads."""
    activation_checkpointing: bool = False
    """Keep only each layer's input for the backward pass, and compute the layer again there."""
    attention: Literal["sdpa", "eager", "flash"] = "sdpa"
    """PyTorch's fused attention; plain matrix products, which keep all scores in memory and are
    faster for short rows on a CPU in bfloat16; or flash-attention (a GPU, bfloat16), which leaves
    out what packed rows mask."""
    kernels: Literal["torch", "liger"] = "torch"
    """Norms, rotations and gates by PyTorch, or by the fused kernels of liger-kernel (a GPU)."""
    launcher: Launcher | None = None
    """What starts the processes; where not said: torchrun if it runs this one, the nodes of a
    hostfile, the nodes of a Slurm allocation, else this machine."""
    hostfile: str | None = None
    """Nodes and their GPUs, one `name slots=8` a line."""

    @model_validator(mode="after")
    def _fits_together(self) -> EngineSettings:
        if self.backend == "torch" and self.num_processes > 1:
            raise ValueError("backend torch is one process; use backend: deepspeed for more")
        if self.backend == "torch" and self.offload != "none":
            raise ValueError("offload goes with backend: deepspeed")
        if self.offload == "parameters" and self.zero_stage < 3:
            raise ValueError("offload: parameters needs zero_stage: 3")
        if self.offload == "optimizer" and self.zero_stage == 0:
            raise ValueError("offload: optimizer needs zero_stage: 1 to 3")
        if self.num_processes % self.sequence_parallel:
            fit = [n for n in range(1, self.num_processes + 1) if self.num_processes % n == 0]
            raise ValueError(
                f"sequence_parallel: {self.sequence_parallel} does not divide num_processes:"
                f" {self.num_processes}; use one of {', '.join(map(str, fit))}"
            )
        if self.sequence_parallel > 1 and self.attention == "flash":
            raise ValueError(
                "sequence_parallel goes with attention: sdpa (which masks nothing there, so that"
                " PyTorch may use its own flash kernel)"
            )
        return self

    def incompatible_with(self, precision: Precision) -> str | None:
        """Say what to set if this engine cannot train in a precision; None if it can."""
        if self.attention == "flash" and precision == "float32":
            return (
                "run.engine.attention: flash computes in bfloat16 alone; set params.precision:"
                " bfloat16, or attention: sdpa"
            )
        if precision == "bfloat16" and self.backend == "deepspeed" and self.zero_stage == 0:
            return (
                "run.engine: ZeRO 0 keeps no float32 weights beside those of params.precision:"
                " bfloat16; set zero_stage: 1, 2 or 3, or params.precision: float32"
            )
        return None


class EngineRun(ComputeRun):
    """How a model is trained: by what, in how many processes."""

    engine: EngineSettings = Field(default_factory=EngineSettings)
    """PyTorch or DeepSpeed."""

    def launch(self) -> Launch | None:
        """Return the processes to run in; None is the pipeline's own."""
        if self.engine.backend == "torch":
            return None
        return Launch(self.engine.num_processes, self.engine.launcher, self.engine.hostfile)

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


class GeneratorSettings(StageModel):
    """What samples: transformers in this process, vLLM, or a server that speaks OpenAI's API."""

    backend: Literal["transformers", "vllm", "openai"] = "transformers"
    tensor_parallel: int = Field(default=1, gt=0)
    """vllm: GPUs that share the weights of one engine."""
    data_parallel: int = Field(default=1, gt=0)
    """vllm: engines side by side, each with its own GPUs and its share of the prompts."""
    gpu_memory_fraction: float | None = Field(default=None, gt=0, lt=1)
    """vllm: share of each GPU's memory; where not said, 0.9, and 0.45 beside a trainer."""
    kv_cache_mb: int | None = Field(default=None, gt=0)
    """vllm: size of the KV cache in MiB; where not said, 256 on a CPU, what is free on a GPU."""
    max_num_seqs: int = Field(default=256, gt=0)
    """vllm: most completions that are decoded together."""
    max_model_tokens: int | None = Field(default=None, gt=1)
    """vllm: longest prompt with its completion; where not said, what the model allows."""
    eager: bool = False
    """vllm: no CUDA graphs: starts sooner, samples more slowly. On a CPU always so."""
    sleep: bool = True
    """vllm: in GRPO on a GPU, free the engine's memory while the policy trains."""
    url: str | None = None
    """openai: where the server is, such as `http://host:8000/v1`."""
    model: str | None = None
    """openai: the model's name there; where not said, the only one that it serves."""
    api_key_env: str = "OPENAI_API_KEY"
    """openai: the environment variable that holds the key, if the server asks for one."""
    max_concurrency: int = Field(default=32, gt=0)
    """openai: most requests under way at once."""
    max_retries: int = Field(default=5, ge=0)
    """openai: how often a request is sent again after a failure that may pass."""
    timeout_s: float = Field(default=600.0, gt=0)
    """openai: longest wait for one completion."""

    @model_validator(mode="after")
    def _fits_its_backend(self) -> GeneratorSettings:
        if (self.url is None) == (self.backend == "openai"):
            raise ValueError("'url' goes with backend openai, which needs it")
        if self.backend != "vllm" and self.tensor_parallel * self.data_parallel > 1:
            raise ValueError("tensor_parallel and data_parallel go with backend vllm")
        return self


class SampleRun(ComputeRun):
    """How sampling is computed."""

    max_batch: int = Field(default=128, gt=0)
    """transformers: most completions decoded together; the workers share such batches."""
    generator: GeneratorSettings = Field(default_factory=GeneratorSettings)
    """transformers, vLLM or a server."""


class World(StageModel):
    """A choice of synthetic problems."""

    mix: dict[str, float]
    """Share of each task by name (arithmetic, choice, countdown, parity, general, safety)."""
    languages: tuple[Literal["en", "zh"], ...] = ("en", "zh")
    """Languages of the wording, drawn uniformly."""
    levels: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    """Levels of each task, drawn uniformly; a task that is not named uses all of its own."""


def check_whole_rollouts(num_steps: int, per_rollout: int, name: str) -> None:
    """Raise StageError unless the updates are whole rollouts."""
    if num_steps % per_rollout:
        lower = num_steps - num_steps % per_rollout
        raise StageError(
            f"{name}: params.num_steps {num_steps} is not a multiple of minibatches_per_rollout"
            f" {per_rollout}; use {lower or per_rollout} or {lower + per_rollout}"
        )


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
