"""Training backends: settings that load a model for an engine, and make the engine.

A backend is a file with such a class and a line in `r1pipe.engine_settings.ENGINES`. The file is
read whenever a manifest is, so what is heavy is imported when a method is called.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1pipe.engine_settings import EngineRun, EngineSettings
from r1pipe.models.interfaces import LanguageModel
from r1pipe.ranks import Ranks
from r1pipe.settings import Optimizer, Precision

if TYPE_CHECKING:
    from r1pipe.train.engine import Engine


class EngineBackend(EngineSettings):
    """The settings of one backend."""

    @abstractmethod
    def load(
        self,
        folder: Path,
        kind: Any,
        precision: Precision,
        device: str,
        fresh: str | None = None,
        **changes: Any,
    ) -> Any:
        """Return the model in `folder` as `engine` takes it; `kind` is its class of transformers.

        `fresh` names the module that no file has; `changes` go into the config.
        """

    @abstractmethod
    def engine(
        self,
        model: LanguageModel,
        optimizer: Optimizer,
        run: EngineRun,
        ranks: Ranks,
        precision: Precision,
    ) -> Engine:
        """Return the engine that trains a model."""
