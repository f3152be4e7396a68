"""Progress reports of the pipeline; `cli/console.py` shows them, tests record them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from r1pipe.pipeline.planning import Plan, PlannedStage


class Console(Protocol):
    """A receiver of progress reports."""

    def plan(self, plan: Plan) -> None:
        """Show what will be done."""

    def stage_started(self, stage: PlannedStage) -> None:
        """Say that a stage begins."""

    def progress(
        self, stage: str, step: int, total: int | None, values: Mapping[str, float]
    ) -> None:
        """Show one step's values; `step` counts from 1."""

    def doing(self, stage: str, what: str, done: int, total: int) -> None:
        """Show how far the work inside a step has come."""

    def stage_finished(
        self,
        name: str,
        status: str,
        seconds: float,
        artifact_id: str | None,
        facts: Mapping[str, object] | None = None,
    ) -> None:
        """Say how a stage ended; `facts` are what it noted, if it has a result."""

    def message(self, text: str) -> None:
        """Say something else."""

    def close(self) -> None:
        """Give the terminal back."""
