"""Draw what a terminal shows of a stage that has run, part of the way: its metrics, played again.

usage: python benchmarks/draw_terminal.py STORE STAGE OUT.svg [--step 18] [--width 80]

The metrics, the pace and the peak memory are those of the record; nothing is made up.
"""

from __future__ import annotations

import argparse
import io
import re
import time
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI

from r1pipe.cli.live_view import StageView
from r1pipe.cli.progress_text import finished_text, result_text
from r1pipe.store.actions import ActionRecord
from r1pipe.store.store import Store

NUM_FINISHED = 6
"""Stages whose lines stand above the view."""
STEP = "step"
FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
"""Fonts that a picture would load from elsewhere; without them it has the viewer's own."""


def main() -> None:
    """Draw the lines of the finished stages and the view of the running one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("stage")
    parser.add_argument("out", type=Path)
    parser.add_argument("--step", type=int, default=18)
    parser.add_argument("--width", type=int, default=80)
    parser.add_argument("--place", default="", help="such as 'stage 9 of 34'")
    arguments = parser.parse_args()
    store = Store(arguments.store)
    record = store.resolve(arguments.stage)
    console = Console(
        record=True, width=arguments.width, file=io.StringIO(), highlight=False, markup=False
    )
    before = [each for each in store.records() if each.created < record.created]
    for each in sorted(before, key=lambda each: each.created)[-NUM_FINISHED:]:
        console.print(finished_line(each, store))
    view = view_of(record, store, arguments.step, arguments.place)
    console.print(view.lines(arguments.width))
    drawn = console.export_svg(title="r1pipe run", theme=DIMMED_MONOKAI)
    arguments.out.write_text(FONTS.sub("", drawn), encoding="utf-8")


def finished_line(record: ActionRecord, store: Store) -> str:
    """Return the line that the run left of a stage."""
    rows = store.metrics(record)
    values = {k: float(v) for k, v in rows[-1].items() if k != STEP} if rows else {}
    result = result_text(record.kind, values, record.facts)
    return finished_text(record.stage_name, "done", record.seconds, record.artifact_id, result)


def view_of(record: ActionRecord, store: Store, step: int, place: str) -> StageView:
    """Return the view of a stage as it was after a step."""
    rows = store.metrics(record)
    view = StageView(record.stage_name, place)
    view.memory_bytes = lambda: record.peak_rss_bytes
    for number, row in enumerate(rows[:step], start=1):
        values = {name: float(value) for name, value in row.items() if name != STEP}
        view.take(number, len(rows), values)
    spent = record.seconds * step / len(rows)
    view.pace.started, view.pace.stepped = time.monotonic() - spent, time.monotonic()
    view.pace.first_stepped = view.pace.started + spent / step
    return view


if __name__ == "__main__":
    main()
