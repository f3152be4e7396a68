"""How models are trained: the table of engines, and what training stages share."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from r1pipe.backends import Backends
from r1pipe.ranks import Launch
from r1pipe.settings import AdapterParams, ComputeRun, ModelParams, Placement, Precision
from r1pipe.stage import StageModel
from r1pipe.tracking.table import TrackerName, missing_packages

ENGINES = {
    "torch": "r1pipe.train.torch_backend.TorchSettings",
    "deepspeed": "r1pipe.train.deepspeed_backend.DeepSpeedSettings",
}
"""Training backend -> its settings (`r1pipe.train.protocol`)."""
MAX_LOGITS = 1 << 26
"""Most logits that a training process has in memory at once: 256 MiB in float32, and as much for
their gradient."""


class EngineSettings(StageModel):
    """Fields of all backends that train a model."""

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

    @property
    def casts_weights(self) -> bool:
        """Whether the model's weights are of the precision, not float32 under autocast."""
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
                "run.engine.attention: flash computes only in bfloat16; set params.precision:"
                " bfloat16, or attention: sdpa"
            )
        return None


ENGINE_BACKENDS = Backends("engine", EngineSettings, ENGINES)


class EngineRun(ComputeRun):
    """How a model is trained: by which engine, in how many processes."""

    engine: Annotated[EngineSettings, ENGINE_BACKENDS] = Field(
        default_factory=ENGINE_BACKENDS.default_settings
    )
    """PyTorch or DeepSpeed."""
    track: tuple[TrackerName, ...] = ()
    """Trackers that are sent the metrics too, each an optional package; offline unless its own
    environment variables say otherwise."""

    def launch(self) -> Launch | None:
        """Return the processes to run in; None is the pipeline's own."""
        return self.engine.launch()

    def incompatible_with(self, params: ModelParams) -> str | None:
        """Say what to set if the engine cannot compute what the parameters ask for."""
        if (message := missing_packages(self.track)) is not None:
            return message
        adapter = params.adapter if isinstance(params, AdapterParams) else None
        if adapter is not None and adapter.quantize is not None:
            if self.engine.backend != "torch":
                return "run.engine: params.adapter.quantize needs the engine torch; set it"
            if self.device.startswith("cpu"):
                return (
                    "run.device: params.adapter.quantize: nf4 needs a GPU and bitsandbytes; set"
                    " run.device: cuda, or leave quantize out"
                )
        if adapter is not None and not adapter.merge and self.engine.shards_weights:
            return (
                "run.engine: ZeRO 3 shards adapters too, and params.adapter.merge: false writes"
                " those of one process; set zero_stage: 2, or merge: true"
            )
        return self.engine.incompatible_with(params.precision)


class TrainRun(EngineRun):
    """How training is computed."""

    micro_batch_tokens: int = Field(default=768, gt=0)
    """Positions that go through the model at once; bounds memory. On a CPU several small
    micro-batches beat a large one: less padding, and the workers share them."""
    layout: Literal["padded", "packed"] = "padded"
    """Micro-batches of padded rows, or rows packed without cross-contamination: no padding but in
    attention, where sequences are put beside one another (with flash-attention none at all)."""
