"""A plan as text: one screen, or every stage with its reasons."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from r1pipe.fitting import fitted_lines, wrapped_lines
from r1pipe.text import short_id, visible

if TYPE_CHECKING:
    from r1pipe.costs.report import Costs
    from r1pipe.pipeline.planning import Plan, PlannedStage

NEW = "not in the store yet"
"""The reason that goes without saying."""
MIN_ROWS = 8
"""Rows of a plan that are shown however low the window is."""
SPARE = ("GPU-HOURS", "KIND", "MEMORY", "PRICE")
"""Columns that a narrow window does without, in this order."""
MIN_REASON = 40
"""Columns from which a reason that is cut still says something."""
INDENT = "    "
REST = 10
"""Lines of a window that a plan leaves to its sums and to what comes after."""


def plan_lines(plan: Plan, width: int | None = None) -> list[str]:
    """Return every stage of a plan: its kind, what happens, and why."""
    rows = [("STAGE", "KIND", "STATUS", "ARTIFACT", "WHY")]
    for stage in plan.stages:
        waits = f"waits for {', '.join(stage.waits_for)}" if stage.waits_for else ""
        why = "; ".join(text for text in (visible(stage.reason), waits) if text)
        rows.append((stage.name, stage.kind, stage.status, short_id(stage.artifact), why))
    return _with_reasons(rows, width, spare=("ARTIFACT", "KIND"))


def short_plan_lines(
    plan: Plan, costs: Costs | None, width: int | None, height: int | None = None
) -> list[str]:
    """Return a plan that fits one screen: neighbours of one kind share a row.

    With `costs`, a row has its time and memory, and the sums follow; of stages on GPUs it has their
    GPU-hours and price too, as far as the window is wide enough.
    """
    groups = _groups(plan.stages)
    shown = groups if height is None else groups[: max(MIN_ROWS, height - REST)]
    titles = costs.short_titles() if costs is not None else ()
    rows: list[tuple[str, ...]] = [("STAGE", "KIND", "STATUS", *titles, "WHY")]
    for group in shown:
        first, names = group[0], [stage.name for stage in group]
        more = f" + {len(group) - 1} more" if len(group) > 1 else ""
        kinds = {stage.kind for stage in group}
        kind = first.kind if len(kinds) == 1 else f"{len(kinds)} kinds"
        cells = costs.short_cells(names) if costs is not None and titles else ()
        why = "" if first.reason == NEW else visible(first.reason)
        rows.append((f"{first.name}{more}", kind, first.status, *cells, why))
    hidden = sum(map(len, groups[len(shown) :]))
    below = [f"and {hidden} more"] if hidden else []
    below.append(f"{_counts(plan)}; 'r1pipe plan --verbose' has all of it")
    below += costs.short_lines() if costs is not None else []
    return _with_reasons(rows, width, spare=SPARE) + wrapped_lines(below, width)


def _with_reasons(
    rows: Sequence[tuple[str, ...]], width: int | None, spare: Sequence[str]
) -> list[str]:
    """Return a table whose last column is the reasons; where more than a third of one would be
    cut, or any of it in a narrow column, they stand on lines of their own, below their rows."""
    lines = fitted_lines(rows, width, spare=spare)
    reasons = [visible(row[-1]) for row in rows[1:]]
    longest = max(map(len, reasons), default=0)
    if width is None or longest <= (left := _width_left(lines, width)):
        return lines
    if left >= MIN_REASON and 2 * longest <= 3 * left:
        return lines
    bare = fitted_lines([row[:-1] for row in rows], width, spare=spare)
    if len(bare) != len(rows):
        return lines  # a window so narrow that rows are blocks
    found = bare[:1]
    for line, reason in zip(bare[1:], reasons, strict=True):
        found += [line, *wrap(reason, width, initial_indent=INDENT, subsequent_indent=INDENT)]
    return found


def _width_left(lines: Sequence[str], width: int) -> int:
    """Return the columns that reasons have; all of them where that column is not there."""
    start = lines[0].find("WHY")
    return sys.maxsize if start < 0 else width - start


def _groups(stages: Sequence[PlannedStage]) -> list[list[PlannedStage]]:
    """Return neighbours with the same status and reason; those to be built also of one kind."""

    def likeness(stage: PlannedStage) -> tuple[str, str, str]:
        is_plain_hit = stage.status == "hit" and not stage.reason
        reason = stage.reason.replace(f" {stage.name} ", " it ")
        return stage.status, reason, "" if is_plain_hit else stage.kind

    return [list(group) for _, group in itertools.groupby(stages, likeness)]


def _counts(plan: Plan) -> str:
    """Return how many stages there are and what becomes of them, in words."""
    builds = sum(stage.builds for stage in plan.stages)
    rest = len(plan.stages) - builds
    stored = f", {rest} in the store" if rest else ""
    stages = "1 stage" if len(plan.stages) == 1 else f"{len(plan.stages)} stages"
    return f"{stages}: {builds} to build{stored}"


def found_lines(plan: Plan, width: int | None = None) -> list[str]:
    """Return what was found in the sources and in the manifest, a line for each, or more in a
    narrow window."""
    found: dict[tuple[str, str], list[str]] = {}
    for look in plan.looks:
        found.setdefault((look.source, look.found), []).append(look.stage)
    lines = [
        f"source {name}, for {', '.join(stages)}: {visible(text)}"
        for (name, text), stages in found.items()
    ]
    return wrapped_lines([*lines, *(f"note: {text}" for text in plan.notes)], width)
