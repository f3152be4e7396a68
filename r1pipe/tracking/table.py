"""The table of trackers. Each is an optional package, imported only where a stage uses it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from r1pipe.keys import JsonObject

TrackerName: TypeAlias = Literal["trackio", "tensorboard", "wandb", "mlflow"]


@dataclass(frozen=True)
class TrackerRun:
    """One run of a tracker. The same id again goes on with the same curves."""

    project: str
    run_id: str
    folder: Path
    """Where the tracker's files are, unless its own environment variables say otherwise."""
    config: JsonObject
    """What the tracker shows beside the curves."""


class Tracker(Protocol):
    """An open run of a tracker."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values of one step."""

    def close(self, is_done: bool) -> None:
        """Send what is left; `is_done` if the stage has its result."""


@dataclass(frozen=True)
class Package:
    """What a tracker needs: the module that is looked for, and what pip calls it."""

    module: str
    package: str


TRACKERS: Mapping[TrackerName, Package] = {
    "trackio": Package("trackio", "trackio"),
    "tensorboard": Package("tensorboard", "tensorboard"),
    "wandb": Package("wandb", "wandb"),
    "mlflow": Package("mlflow", "mlflow"),
}
"""Tracker -> what it needs; its adapter is `r1pipe.tracking.<name>_run`, with `open_run`."""


def missing_packages(names: Iterable[TrackerName]) -> str | None:
    """Say which trackers are not installed and how to install them; None if all are."""
    missing = [name for name in names if find_spec(TRACKERS[name].module) is None]
    if not missing:
        return None
    packages = " ".join(TRACKERS[name].package for name in missing)
    are = "is" if len(missing) == 1 else "are"
    return (
        f"run.track: {', '.join(missing)} {are} not installed; pip install {packages}, or leave"
        f" {'it' if len(missing) == 1 else 'them'} out"
    )
