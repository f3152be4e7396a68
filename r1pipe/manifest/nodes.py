"""The nodes of a manifest's graph: sources and stages, checked and frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1pipe.manifest.defaults import params_without_defaults
from r1pipe.manifest.references import Ref
from r1pipe.manifest.yaml_source import Origin
from r1pipe.stage import StageKind, StageModel


@dataclass(frozen=True)
class SourceNode:
    """Something from outside the store: a local file or folder, or a hub repository."""

    name: str
    path: Path | None
    hf: str | None
    revision: str | None
    type: str
    origin: Origin
    size: str | None = None
    """Parameters in words, for `plan` alone."""


@dataclass(frozen=True)
class StageNode:
    """One stage of a manifest, checked against its kind."""

    name: str
    kind: StageKind
    inputs: Mapping[str, Ref | Mapping[str, Ref]]
    params: StageModel
    run: StageModel
    origins: Mapping[str, Origin]
    """Dotted path such as `params.lr` or `inputs.model` -> where its value was written."""

    def key_params(self) -> dict[str, Any]:
        """Return the parameters that differ from their frozen default, as JSON values."""
        return params_without_defaults(self.params)
