"""The backend `torch`: plain PyTorch in the pipeline's own process (`r1pipe.train.engine`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from r1pipe.engine_settings import EngineRun
from r1pipe.models.interfaces import LanguageModel
from r1pipe.ranks import Ranks
from r1pipe.settings import Optimizer, Precision
from r1pipe.train.protocol import EngineBackend

if TYPE_CHECKING:
    from r1pipe.train.engine import Engine


class TorchSettings(EngineBackend):
    """Plain PyTorch in one process."""

    package = "torch"

    backend: Literal["torch"] = "torch"

    def load(
        self,
        folder: Path,
        kind: Any,
        precision: Precision,
        device: str,
        fresh: str | None = None,
        **changes: Any,
    ) -> Any:
        """Return the model of a folder in float32 on its device."""
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
        """Return an engine whose threads share a step on a CPU."""
        from r1pipe.train.engine import TorchEngine
        from r1pipe.workers import num_workers

        return TorchEngine(
            model,
            betas=(optimizer.beta1, optimizer.beta2),
            weight_decay=optimizer.weight_decay,
            max_grad_norm=optimizer.max_grad_norm,
            precision=precision,
            workers=num_workers(run.workers, run.device),
        )
