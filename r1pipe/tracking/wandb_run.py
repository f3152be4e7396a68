"""The tracker Weights & Biases: offline unless `WANDB_MODE` says otherwise; `wandb sync` sends."""

from __future__ import annotations

import os
from collections.abc import Mapping

from r1pipe.tracking.table import Tracker, TrackerRun


class WandbRun:
    """A run of a project, found again by its id."""

    def __init__(self, asked: TrackerRun) -> None:
        os.environ.setdefault("WANDB_MODE", "offline")
        import wandb

        self._run = wandb.init(
            project=asked.project,
            id=asked.run_id,
            name=asked.run_id,
            dir=os.environ.get("WANDB_DIR", str(asked.folder)),
            config=dict(asked.config),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values of one step."""
        self._run.log(dict(values), step=step)

    def close(self, is_done: bool) -> None:
        """Write or send what is left; a run that is not done is marked so."""
        self._run.finish(exit_code=0 if is_done else 1)


def open_run(asked: TrackerRun) -> Tracker:
    """Open a run, or go on with it."""
    return WandbRun(asked)
