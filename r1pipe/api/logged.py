"""The console of the Python API: progress as records of the logger `r1pipe`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from r1pipe.pipeline.planning import Plan, PlannedStage


class LoggedConsole:
    """Tells the progress of a run to the logger `r1pipe`."""

    def __init__(self) -> None:
        self._logger = logging.getLogger("r1pipe")

    def plan(self, plan: Plan) -> None:
        """Say how many stages will be built."""
        count = sum(stage.builds for stage in plan.stages)
        self._logger.info("%d of %d stages to build", count, len(plan.stages))

    def stage_started(self, stage: PlannedStage) -> None:
        """Say that a stage begins."""
        self._logger.info("%s: starts (%s)", stage.name, stage.kind)

    def progress(
        self, stage: str, step: int, total: int | None, values: Mapping[str, float]
    ) -> None:
        """Tell one step's values at level DEBUG."""
        self._logger.debug("%s: step %d/%s %s", stage, step, total or "?", dict(values))

    def doing(self, stage: str, what: str, done: int, total: int) -> None:
        """Leave out what happens inside a step."""

    def stage_finished(
        self,
        name: str,
        status: str,
        seconds: float,
        artifact_id: str | None,
        facts: Mapping[str, object] | None = None,
    ) -> None:
        """Say how a stage ended."""
        self._logger.info("%s: %s in %.1f s (%s)", name, status, seconds, artifact_id or "-")

    def message(self, text: str) -> None:
        """Tell warnings and other messages."""
        self._logger.warning("%s", text)

    def close(self) -> None:
        """Keep nothing open."""
