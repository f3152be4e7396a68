"""Progress of the pipeline on stderr: live on a terminal, in plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TextIO

from r1pipe.text import format_duration, format_number, short_id, table_lines, visible

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from r1pipe.pipeline.planning import Plan, PlannedStage
    from r1pipe.pipeline.progress import Console

LINE_EVERY_S = 5.0
"""The least time between two lines of one stage where there is no terminal."""
KNOWN_VALUES = {
    "loss": "loss {}",
    "reward": "reward {}",
    "pass_rate": "pass rate {}",
    "kept": "{} kept",
    "failed_units": "{} units failed",
    "forecast_rows": "{} in the end",
    "target_tokens": "{} tokens to go",
    "tokens_per_s": "{} tokens/s",
}
RESULTS = ("loss", "reward", "pass_rate", "kept")
"""Those of them that say how a stage ended."""
MAX_VALUES = 4
WIDE = 100
"""Columns of a terminal on which the bar is drawn at full length."""


AfterPlan = Callable[["Plan"], None]
"""Called when a plan has been shown and nothing has been done yet; may raise."""


def make_console(after_plan: AfterPlan = lambda plan: None) -> Console:
    """Return the console that suits stderr."""
    if sys.stderr.isatty():
        return LiveConsole(sys.stderr, after_plan)
    return PlainConsole(sys.stderr, after_plan)


def plan_lines(plan: Plan) -> list[str]:
    """Return a plan as aligned lines: stage, kind, what happens, and why."""
    rows = [("STAGE", "KIND", "STATUS", "ARTIFACT", "WHY")]
    for stage in plan.stages:
        waits = f"waits for {', '.join(stage.waits_for)}" if stage.waits_for else ""
        why = "; ".join(text for text in (visible(stage.reason), waits) if text)
        rows.append((stage.name, stage.kind, stage.status, short_id(stage.artifact), why))
    return table_lines(rows)


def source_lines(plan: Plan) -> list[str]:
    """Return what was found in the sources, a line for each."""
    found: dict[tuple[str, str], list[str]] = {}
    for look in plan.looks:
        found.setdefault((look.source, look.found), []).append(look.stage)
    return [
        f"source {name}, for {', '.join(stages)}: {visible(text)}"
        for (name, text), stages in found.items()
    ]


def values_text(values: Mapping[str, float]) -> str:
    """Return the values worth a place on the line: the well-known ones, else the first few."""
    known = [name for name in KNOWN_VALUES if name in values]
    if known:
        return "  ".join(KNOWN_VALUES[name].format(format_number(values[name])) for name in known)
    first = list(values)[:MAX_VALUES]
    return "  ".join(f"{visible(name)} {format_number(values[name])}" for name in first)


def doing_text(what: str, done: int, total: int) -> str:
    """Return how far the work inside a step has come."""
    return f"{what} {done:,}/{total:,}"


def finished_text(
    name: str,
    status: str,
    seconds: float,
    artifact_id: str | None,
    values: Mapping[str, float] | None = None,
) -> str:
    """Return the line that ends a stage; `values` are those of its last step."""
    parts = [f"{name}: {status} in {format_duration(seconds)}"]
    parts += [short_id(artifact_id)] if artifact_id else []
    results = {key: value for key, value in (values or {}).items() if key in RESULTS}
    parts += [values_text(results)] if results and status == "done" else []
    return "  ".join(parts)


class Places:
    """Which of a plan's stages each one is."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def take(self, plan: Plan) -> None:
        """Number the stages of a plan."""
        self._numbers = {stage.name: place for place, stage in enumerate(plan.stages, start=1)}

    def text(self, name: str) -> str:
        """Return a stage's place, such as `9 of 34`; nothing if it is alone or not planned."""
        count = len(self._numbers)
        return f"{self._numbers[name]} of {count}" if name in self._numbers and count > 1 else ""


class PlainConsole:
    """Lines of text, no more than one in `LINE_EVERY_S` per stage."""

    def __init__(self, stream: TextIO, after_plan: AfterPlan = lambda plan: None) -> None:
        self.stream = stream
        self.after_plan = after_plan
        self.started = 0.0
        self.first_step = 0
        self.last_line = 0.0
        self.places = Places()
        self.values: Mapping[str, float] = {}

    def plan(self, plan: Plan) -> None:
        self.places.take(plan)
        for line in [*plan_lines(plan), *source_lines(plan)]:
            self.message(line)
        self.after_plan(plan)

    def stage_started(self, stage: PlannedStage) -> None:
        self.started = self.last_line = time.monotonic()
        self.first_step, self.values = 0, {}
        verb = "resumes" if stage.status == "resume" else "starts"
        place = f", stage {text}" if (text := self.places.text(stage.name)) else ""
        self.message(f"{stage.name}: {verb} ({stage.kind}){place}")

    def progress(
        self, stage: str, step: int, total: int | None, values: Mapping[str, float]
    ) -> None:
        now, self.values = time.monotonic(), values
        self.first_step = self.first_step or step
        if now - self.last_line < LINE_EVERY_S and step != total:
            return
        self.last_line = now
        parts = [f"{stage}: step {step}/{total}" if total else f"{stage}: step {step}"]
        parts += [text] if (text := values_text(values)) else []
        if total and step < total and step > self.first_step:
            seconds = (now - self.started) / (step - self.first_step + 1) * (total - step)
            parts.append(f"{format_duration(seconds)} left")
        self.message("  ".join(parts))

    def doing(self, stage: str, what: str, done: int, total: int) -> None:
        if (now := time.monotonic()) - self.last_line >= LINE_EVERY_S:
            self.last_line = now
            spent = format_duration(now - self.started)
            self.message(f"{stage}: {doing_text(what, done, total)}  {spent}")

    def stage_finished(
        self, name: str, status: str, seconds: float, artifact_id: str | None
    ) -> None:
        self.message(finished_text(name, status, seconds, artifact_id, self.values))
        self.values = {}

    def message(self, text: str) -> None:
        print(visible(text, keep_lines=True), file=self.stream, flush=True)

    def close(self) -> None:
        self.stream.flush()


class LiveConsole:
    """A progress bar for the running stage below the lines of the finished ones."""

    STYLES: Mapping[str, str] = {
        "hit": "green",
        "run": "yellow",
        "resume": "cyan",
        "waits": "yellow",
        "lost": "red",
    }

    def __init__(self, stream: TextIO, after_plan: AfterPlan = lambda plan: None) -> None:
        from rich.console import Console as RichConsole

        self.rich = RichConsole(file=stream, highlight=False, markup=False, emoji=False)
        self.after_plan = after_plan
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        self.places = Places()
        self.values: Mapping[str, float] = {}

    def plan(self, plan: Plan) -> None:
        self.places.take(plan)
        lines = plan_lines(plan)
        self.rich.print(lines[0], style="bold", soft_wrap=True)
        for line, stage in zip(lines[1:], plan.stages, strict=True):
            self.rich.print(line, style=self.STYLES.get(stage.status, ""), soft_wrap=True)
        for line in source_lines(plan):
            self.message(line)
        self.after_plan(plan)

    def stage_started(self, stage: PlannedStage) -> None:
        self._stop_bar()
        self.bar = _make_bar(self.rich)
        self.values = {}
        place = f" ({text})" if (text := self.places.text(stage.name)) else ""
        self.task = self.bar.add_task(f"{stage.name}{place}", total=None, place="", values="")
        self.bar.start()

    def progress(
        self, stage: str, step: int, total: int | None, values: Mapping[str, float]
    ) -> None:
        self.values = values
        if self.bar is not None and self.task is not None:
            place = f"{step}/{total}" if total else str(step)
            text = values_text(values)
            self.bar.update(self.task, completed=step, total=total, place=place, values=text)

    def doing(self, stage: str, what: str, done: int, total: int) -> None:
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, values=doing_text(what, done, total))

    def stage_finished(
        self, name: str, status: str, seconds: float, artifact_id: str | None
    ) -> None:
        self._stop_bar()
        self.message(finished_text(name, status, seconds, artifact_id, self.values))
        self.values = {}

    def message(self, text: str) -> None:
        self.rich.print(visible(text, keep_lines=True), soft_wrap=True)

    def close(self) -> None:
        self._stop_bar()

    def _stop_bar(self) -> None:
        if self.bar is not None:
            self.bar.stop()
        self.bar = self.task = None


def _make_bar(rich: object) -> Progress:
    """Return a bar whose values give way where the terminal is narrow; its times never do."""
    from rich.console import Console as RichConsole
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    assert isinstance(rich, RichConsole)
    values = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    return Progress(
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width=20 if rich.width >= WIDE else 6),
        TextColumn("{task.fields[place]}", markup=False, table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[values]}", markup=False, table_column=values),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        console=rich,
        transient=True,
        expand=True,
    )
