"""Progress of the pipeline on stderr: live on a terminal, in plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TextIO

from r1pipe.cli.plan_view import found_lines, short_plan_lines
from r1pipe.cli.progress_text import (
    Pace,
    Places,
    doing_text,
    finished_text,
    result_text,
    values_text,
)
from r1pipe.text import format_duration, visible

if TYPE_CHECKING:
    from r1pipe.pipeline.planning import Plan, PlannedStage
    from r1pipe.pipeline.progress import Console

LINE_EVERY_S = 5.0
"""The least time between two lines of one stage where there is no terminal."""

AfterPlan = Callable[["Plan"], None]
"""Called when a plan has been shown and nothing has been done yet; may raise."""


def make_console(after_plan: AfterPlan = lambda plan: None) -> Console:
    """Return the console that suits stderr."""
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        from r1pipe.cli.live_view import LiveConsole

        return LiveConsole(sys.stderr, after_plan)
    return PlainConsole(sys.stderr, after_plan)


class PlainConsole:
    """Lines of text, no more than one in `LINE_EVERY_S` per stage."""

    def __init__(self, stream: TextIO, after_plan: AfterPlan = lambda plan: None) -> None:
        self.stream = stream
        self.after_plan = after_plan
        self.last_line = 0.0
        self.places = Places()
        self.pace = Pace()
        self.values: Mapping[str, float] = {}

    def plan(self, plan: Plan) -> None:
        """Show what will be done."""
        self.places.take(plan)
        for line in [*short_plan_lines(plan, None, None), *found_lines(plan)]:
            self.message(line)
        self.after_plan(plan)

    def stage_started(self, stage: PlannedStage) -> None:
        """Say that a stage begins."""
        self.pace, self.values = Pace(), {}
        self.last_line = self.pace.started
        verb = "resumes" if stage.status == "resume" else "starts"
        place = f", {text}" if (text := self.places.text(stage.name)) else ""
        self.message(f"{stage.name}: {verb} ({stage.kind}){place}")

    def progress(
        self, stage: str, step: int, total: int | None, values: Mapping[str, float]
    ) -> None:
        """Show one step's values now and then, and those of the last step."""
        self.values = values
        self.pace.take(step, total)
        if time.monotonic() - self.last_line < LINE_EVERY_S and step != total:
            return
        self.last_line = time.monotonic()
        parts = [f"{stage}: step {step}/{total}" if total else f"{stage}: step {step}"]
        parts += [text] if (text := values_text(values)) else []
        parts += [] if (left := self.pace.left()) is None else [f"{format_duration(left)} left"]
        self.message("  ".join(parts))

    def doing(self, stage: str, what: str, done: int, total: int) -> None:
        """Show now and then how far the work inside a step has come."""
        if (now := time.monotonic()) - self.last_line >= LINE_EVERY_S:
            self.last_line = now
            spent = format_duration(self.pace.spent())
            self.message(f"{stage}: {doing_text(what, done, total)}  {spent}")

    def stage_finished(
        self,
        name: str,
        status: str,
        seconds: float,
        artifact_id: str | None,
        facts: Mapping[str, object] | None = None,
    ) -> None:
        """Say how a stage ended and what came out."""
        result = result_text(self.places.kind(name), self.values, facts or {})
        self.message(finished_text(name, status, seconds, artifact_id, result))
        self.values = {}

    def message(self, text: str) -> None:
        """Say something else."""
        print(visible(text, keep_lines=True), file=self.stream, flush=True)

    def close(self) -> None:
        """Write what is left."""
        self.stream.flush()
