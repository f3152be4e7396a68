"""The tracker MLflow: a SQLite file on this machine unless `MLFLOW_TRACKING_URI` names a server.

`mlflow ui --backend-store-uri sqlite:///FILE` shows it. MLflow makes the ids of its runs itself,
so ours is a tag, by which a resumed run finds its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from r1pipe.tracking.table import Tracker, TrackerRun

TAG = "r1pipe.run"
MAX_PARAM_CHARS = 500
"""Longest value that older servers take."""


class MlflowRun:
    """A run of an experiment, which has the project's name."""

    def __init__(self, asked: TrackerRun) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric = Metric
        folder = asked.folder.absolute()
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
        self._client = MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(asked.project)
        if found is None:
            where = None if "MLFLOW_TRACKING_URI" in os.environ else (folder / "files").as_uri()
            experiment = self._client.create_experiment(asked.project, artifact_location=where)
        else:
            experiment = found.experiment_id
        runs = self._client.search_runs([experiment], f"tags.`{TAG}` = '{asked.run_id}'")
        if runs:
            self._id = runs[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        tags = {TAG: asked.run_id}
        run = self._client.create_run(experiment, run_name=asked.run_id, tags=tags)
        self._id = run.info.run_id
        params = [Param(key, str(each)[:MAX_PARAM_CHARS]) for key, each in asked.config.items()]
        self._client.log_batch(self._id, params=params)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values of one step."""
        now = int(time.time() * 1000)
        metrics = [self._metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self, is_done: bool) -> None:
        """Mark the run as finished, or as one that may go on."""
        self._client.set_terminated(self._id, "FINISHED" if is_done else "KILLED")


def open_run(asked: TrackerRun) -> Tracker:
    """Open a run, or go on with it."""
    return MlflowRun(asked)
