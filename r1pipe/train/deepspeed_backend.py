"""The backend `deepspeed`: ZeRO in processes of its own (`r1pipe.train.deepspeed_engine`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from r1pipe.engine_settings import EngineRun
from r1pipe.errors import StageError
from r1pipe.models.interfaces import LanguageModel
from r1pipe.ranks import Launch, Launcher, Ranks
from r1pipe.settings import Optimizer, Placement, Precision
from r1pipe.train.protocol import EngineBackend

if TYPE_CHECKING:
    from r1pipe.train.engine import Engine


class DeepSpeedSettings(EngineBackend):
    """DeepSpeed, whose processes shard the training state."""

    package = "deepspeed"

    backend: Literal["deepspeed"]
    num_processes: int = Field(default=1, gt=0)
    """Processes on all nodes together; one for each GPU."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """What is sharded among them: 1 optimizer state, 2 gradients too, 3 weights too."""
    offload: Literal["none", "optimizer", "parameters"] = "none"
    """What the CPU's memory holds: optimizer state, or (ZeRO 3) weights too."""
    sequence_parallel: int = Field(default=1, gt=0)
    """Processes that share each micro-batch, for long contexts: each holds its shard of the
    positions (Ulysses). Divides num_processes and the model's attention heads."""
    zero_hpz_partition_size: int = Field(default=1, gt=0)
    """ZeRO++ (arXiv:2306.10209), with ZeRO 3 on several nodes: processes of a node, which keep the
    weights of a forward pass once among them, so that the backward pass gathers inside the node.
    Divides num_processes."""
    launcher: Launcher | None = None
    """What starts the processes; default: torchrun if it runs this one, the nodes of a hostfile,
    the nodes of a Slurm allocation, else this machine."""
    hostfile: str | None = None
    """Nodes and their GPUs, one `name slots=8` a line."""

    @model_validator(mode="after")
    def _fits_together(self) -> DeepSpeedSettings:
        if self.offload == "parameters" and self.zero_stage < 3:
            raise ValueError("offload: parameters needs zero_stage: 3")
        if self.offload == "optimizer" and self.zero_stage == 0:
            raise ValueError("offload: optimizer needs zero_stage: 1 to 3")
        if self.zero_hpz_partition_size > 1 and self.zero_stage < 3:
            raise ValueError("zero_hpz_partition_size needs zero_stage: 3")
        for name in ("sequence_parallel", "zero_hpz_partition_size"):
            if self.num_processes % getattr(self, name):
                fit = [n for n in range(1, self.num_processes + 1) if self.num_processes % n == 0]
                raise ValueError(
                    f"{name}: {getattr(self, name)} does not divide num_processes:"
                    f" {self.num_processes}; use one of {', '.join(map(str, fit))}"
                )
        if self.sequence_parallel > 1 and self.attention == "flash":
            raise ValueError(
                "sequence_parallel goes with attention: sdpa (which masks nothing there, so that"
                " PyTorch may use its own flash kernel)"
            )
        return self

    @property
    def shards_weights(self) -> bool:
        """Whether no process holds the whole model."""
        return self.zero_stage == 3

    @property
    def casts_weights(self) -> bool:
        """Whether the model's weights are of the precision, not float32 under autocast."""
        return True

    def launch(self) -> Launch:
        """Return the processes to train in."""
        return Launch(self.num_processes, self.launcher, self.hostfile)

    def place(self, device: str, precision: Precision) -> Placement:
        """Return where training is done, for its cost."""
        return replace(
            super().place(device, precision),
            processes=self.num_processes,
            zero_stage=self.zero_stage,
            is_offloaded=self.offload != "none",
            sequence_parallel=self.sequence_parallel,
            neighbours=self.zero_hpz_partition_size,
            start_s=(4.0, 90.0),
        )

    def incompatible_with(self, precision: Precision) -> str | None:
        """Say what to set if this engine cannot train in a precision; None if it can."""
        if precision == "bfloat16" and self.zero_stage == 0:
            return (
                "run.engine: ZeRO 0 keeps no float32 weights beside those of params.precision:"
                " bfloat16; set zero_stage: 1, 2 or 3, or params.precision: float32"
            )
        return super().incompatible_with(precision)

    def load(
        self,
        folder: Path,
        kind: Any,
        precision: Precision,
        device: str,
        fresh: str | None = None,
        **changes: Any,
    ) -> Any:
        """Return a whole model in float32, or with ZeRO 3 this rank's shard of each parameter."""
        if self.shards_weights:
            with _deepspeed_needed():
                from r1pipe.train.sharded import load_sharded
            return load_sharded(folder, kind, self, precision, device, fresh, **changes)
        from r1pipe.models.policy import load_model

        return load_model(folder, device=device, kind=kind, **changes)

    def engine(
        self,
        model: LanguageModel,
        optimizer: Optimizer,
        run: EngineRun,
        ranks: Ranks,
        precision: Precision,
    ) -> Engine:
        """Return an engine over the ranks of a stage."""
        with _deepspeed_needed():
            from r1pipe.train.deepspeed_engine import DeepSpeedEngine
        return DeepSpeedEngine(
            model,
            self,
            ranks,
            betas=(optimizer.beta1, optimizer.beta2),
            weight_decay=optimizer.weight_decay,
            max_grad_norm=optimizer.max_grad_norm,
            precision=precision,
        )


@contextmanager
def _deepspeed_needed() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise StageError(
            f"run.engine.backend is deepspeed, but {error.name} is not installed; "
            "install it with: pip install 'r1pipe[deepspeed]'"
        ) from None
