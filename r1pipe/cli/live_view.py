"""The running stage on a terminal: its place, its times, the numbers that matter and their curves.

One line says where the stage is, one how long it has run and will run. Below, each number has its
latest value and a curve of all so far; on a wide terminal two of them share a line.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from r1pipe.cli.plan_view import found_lines, short_plan_lines
from r1pipe.cli.progress_text import (
    LABELS,
    Pace,
    Places,
    doing_text,
    finished_text,
    result_text,
    telling,
)
from r1pipe.fitting import elided, wrapped_lines
from r1pipe.text import (
    ASCII_BARS,
    BARS,
    format_bytes,
    format_duration,
    format_number,
    sparkline,
    visible,
)

if TYPE_CHECKING:
    from typing import TextIO

    from rich.console import Console as RichConsole
    from rich.console import Group, RenderableType
    from rich.live import Live
    from rich.text import Text

    from r1pipe.cli.console import AfterPlan
    from r1pipe.pipeline.planning import Plan, PlannedStage

REFRESHES_PER_S = 2
WIDE = 80
"""Columns from which two numbers share a line."""
LABEL, NUMBER, CURVE = 12, 9, 24
"""Columns of a label, of a number, and at most of a curve."""
BAR = 30
ZERO_TELLS = frozenset({"loss", "reward", "pass_rate", "kept"})
"""Numbers that are shown even if they were never anything but zero."""
TO_BARS = str.maketrans(ASCII_BARS, BARS)
"""Live stands in for stdout, and its stand-in does not say which characters can be printed."""
MAX_POINTS = 400
"""Points of a curve; beyond, neighbours are averaged, so that a long run takes no more memory."""
STYLES: Mapping[str, str] = {
    "hit": "green",
    "run": "yellow",
    "resume": "cyan",
    "waits": "yellow",
    "lost": "red",
}


class Curve:
    """The values of one number so far, thinned."""

    def __init__(self) -> None:
        self.points: list[float] = []
        self.last = 0.0
        self._share = 1
        self._waiting: list[float] = []

    def add(self, value: float) -> None:
        """Add a value; the curve keeps at most `MAX_POINTS` means of equal shares."""
        self.last = value
        self._waiting.append(value)
        if len(self._waiting) == self._share:
            self.points.append(sum(self._waiting) / self._share)
            self._waiting.clear()
        if len(self.points) == MAX_POINTS:
            pairs = zip(self.points[::2], self.points[1::2], strict=True)
            self.points = [(one + other) / 2 for one, other in pairs]
            self._share *= 2


class StageView:
    """What is shown of the running stage."""

    def __init__(self, name: str, place: str) -> None:
        self.name = name
        self.place = place
        self.pace = Pace()
        self.work = ""
        self.memory_bytes = memory_bytes
        self.gpu_bytes = 0.0
        self.curves: dict[str, Curve] = {}

    def take(self, step: int, total: int | None, values: Mapping[str, float]) -> None:
        """Note a step's values."""
        self.work = ""
        self.pace.take(step, total)
        self.gpu_bytes = values.get("peak_gpu_bytes", self.gpu_bytes)
        for name in telling(values):
            self.curves.setdefault(name, Curve()).add(values[name])

    def lines(self, width: int, encoding: str = "utf-8") -> Group:
        """Return what is shown at a width, in characters that an encoding has."""
        from rich.console import Group
        from rich.text import Text

        times = elided(self._times(), width)
        return Group(self._head(width), Text(times, style="dim"), *self._numbers(width, encoding))

    def _head(self, width: int) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        pace = self.pace
        title = "  ".join(text for text in (self.name, self.place) if text)
        steps = f"step {pace.step:,}" if pace.step else "starting"
        steps += f" of {pace.total:,}" if pace.total and pace.step else ""
        room = width - len(title) - len(steps) - 4
        grid = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(3):
            grid.add_column(no_wrap=True)
        if room < 6 or not pace.total:
            return Text(elided(f"{title}  {steps}", width), style="bold")
        bar = ProgressBar(
            total=pace.total, completed=pace.step, width=min(BAR, room), complete_style="cyan"
        )
        grid.add_row(Text(title, style="bold"), bar, steps)
        return grid

    def _times(self) -> str:
        parts = [f"running {format_duration(self.pace.spent())}"]
        if (left := self.pace.left()) is not None:
            parts.append(f"left {format_duration(left)}")
        parts += [f"memory {format_bytes(memory)}"] if (memory := self.memory_bytes()) else []
        parts += [f"GPU {format_bytes(self.gpu_bytes)}"] if self.gpu_bytes else []
        return "  " + "   ".join(parts + [self.work] * bool(self.work))

    def _numbers(self, width: int, encoding: str) -> list[Text]:
        from rich.text import Text

        side_by_side = 2 if width >= WIDE else 1
        room = width // side_by_side - 2 - LABEL - 1 - NUMBER - 2
        cells = []
        for name, curve in self.curves.items():
            if name not in ZERO_TELLS and not curve.last and not any(curve.points):
                continue
            label = elided(LABELS.get(name, visible(name)), LABEL)
            drawn = sparkline(curve.points, max(4, min(CURVE, room)))
            drawn = drawn.translate(TO_BARS) if encoding.startswith("utf") else drawn
            cells.append(f"  {label:<{LABEL}} {format_number(curve.last):>{NUMBER}}  {drawn}")
        rows = [cells[i : i + side_by_side] for i in range(0, len(cells), side_by_side)]
        half = width // side_by_side
        return [
            Text("".join(f"{cell:<{half}}" for cell in row).rstrip(), no_wrap=True) for row in rows
        ]


class LiveConsole:
    """The running stage's view below the lines of the finished ones."""

    def __init__(self, stream: TextIO, after_plan: AfterPlan = lambda plan: None) -> None:
        from rich.console import Console as RichConsole

        self.rich = RichConsole(file=stream, highlight=False, markup=False, emoji=False)
        self.after_plan = after_plan
        self.view: StageView | None = None
        self.live: Live | None = None
        self.places = Places()
        self.values: Mapping[str, float] = {}

    def plan(self, plan: Plan) -> None:
        """Show what will be done, on one screen."""
        self.places.take(plan)
        width, height = self.rich.size
        lines = [*short_plan_lines(plan, None, width, height), *found_lines(plan, width)]
        self.rich.print(lines[0], style="bold", soft_wrap=True)
        for line in lines[1:]:
            words = line.split()
            style = next((STYLES[word] for word in words if word in STYLES), "")
            self.rich.print(line, style=style, soft_wrap=True)
        self.after_plan(plan)

    def stage_started(self, stage: PlannedStage) -> None:
        """Show the view of another stage."""
        self._stop()
        self.values = {}
        self.view = StageView(stage.name, self.places.text(stage.name))
        self.live = _make_live(self.rich, self.view)
        self.live.start()

    def progress(
        self, stage: str, step: int, total: int | None, values: Mapping[str, float]
    ) -> None:
        """Show one step's values."""
        self.values = values
        if self.view is not None:
            self.view.take(step, total, values)

    def doing(self, stage: str, what: str, done: int, total: int) -> None:
        """Show how far the work inside a step has come."""
        if self.view is not None:
            self.view.work = doing_text(what, done, total)

    def stage_finished(
        self,
        name: str,
        status: str,
        seconds: float,
        artifact_id: str | None,
        facts: Mapping[str, object] | None = None,
    ) -> None:
        """Leave the line of a stage that ended, with its result."""
        self._stop()
        result = result_text(self.places.kind(name), self.values, facts or {})
        self.message(finished_text(name, status, seconds, artifact_id, result))
        self.values = {}

    def message(self, text: str) -> None:
        """Leave a line."""
        lines = wrapped_lines(text.split("\n"), self.rich.width)
        self.rich.print("\n".join(lines), soft_wrap=True)

    def close(self) -> None:
        """Give the terminal back."""
        self._stop()

    def _stop(self) -> None:
        if self.live is not None:
            self.live.stop()
        self.live = self.view = None


def _make_live(rich: RichConsole, view: StageView) -> Live:
    from rich.live import Live

    return Live(
        console=rich,
        get_renderable=lambda: view.lines(rich.width, rich.encoding),
        refresh_per_second=REFRESHES_PER_S,
        transient=True,
        vertical_overflow="crop",
    )


def memory_bytes() -> int:
    """Return the memory that this process holds now; 0 where the system does not say."""
    if sys.platform != "linux":
        return 0
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0
