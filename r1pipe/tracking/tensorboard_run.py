"""The tracker TensorBoard: event files, read by `tensorboard --logdir FOLDER`."""

from __future__ import annotations

import json
from collections.abc import Mapping

from r1pipe.tracking.table import Tracker, TrackerRun


class TensorBoardRun:
    """A folder of event files for one run; a resumed run adds a file."""

    def __init__(self, asked: TrackerRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(asked.folder / asked.project / asked.run_id))
        self._writer.add_text("config", json.dumps(asked.config, indent=2))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values of one step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self, is_done: bool) -> None:
        """Write what is left."""
        self._writer.close()


def open_run(asked: TrackerRun) -> Tracker:
    """Open a run, or go on with it."""
    return TensorBoardRun(asked)
