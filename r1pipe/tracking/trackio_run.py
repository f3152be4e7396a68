"""The tracker Trackio: SQLite files on this machine, shown by `trackio show`.

`TRACKIO_SPACE_ID` or `TRACKIO_SERVER_URL`, which Trackio reads itself, send them elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from r1pipe.tracking.table import Tracker, TrackerRun


class TrackioRun:
    """A run of a project; a resumed run goes on under its name."""

    def __init__(self, asked: TrackerRun) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(asked.folder.absolute()))  # read at import
        import trackio

        self._finish = trackio.finish
        self._run = trackio.init(
            project=asked.project,
            name=asked.run_id,
            config=dict(asked.config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values of one step."""
        self._run.log(dict(values), step=step)

    def close(self, is_done: bool) -> None:
        """Write what is left; Trackio then has no current run to end with the process."""
        self._finish()


def open_run(asked: TrackerRun) -> Tracker:
    """Open a run, or go on with it."""
    return TrackioRun(asked)
