"""Learning curves: a stage's metrics by step, beside those of its other results in the store."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from r1pipe.store.metrics import read_metrics
from r1pipe.text import short_id, visible

if TYPE_CHECKING:
    from r1pipe.pipeline.planning import Plan
    from r1pipe.store.actions import ActionRecord
    from r1pipe.store.store import Store

MAX_POINTS = 1_000
MAX_OTHERS = 4
"""Other results of a stage that are offered beside the present one, the latest first."""
STEP, LOSS = "step", "loss"


@dataclass(frozen=True)
class Curve:
    """One result's metrics: name -> [step, value] pairs, finite ones only."""

    stage: str
    label: str
    is_chosen: bool
    """Whether it is shown at first: what trains, as the manifest is now."""
    metrics: dict[str, list[tuple[float, float]]]


def curves_of(found: Plan, store: Store) -> Iterator[Curve]:
    """Yield the curves of all stages that have some."""
    known = sorted(store.known(), key=lambda record: record.created, reverse=True)
    for stage in found.stages:
        record = found.records.get(stage.name)
        present = _present(store, stage.key, record)
        if present:
            yield Curve(stage.name, stage.name, LOSS in present, present)
        for other in _others(stage.name, record, known):
            if metrics := series(store.metrics(other)):
                label = f"{stage.name}@{short_id(other.artifact_id)} ({other.created[:10]})"
                yield Curve(stage.name, visible(label), False, metrics)


def series(rows: Sequence[Mapping[str, object]]) -> dict[str, list[tuple[float, float]]]:
    """Return each metric's points, thinned evenly to `MAX_POINTS`; the last one stays."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        step = row.get(STEP)
        if not isinstance(step, int | float):
            continue
        for name, value in row.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if name != STEP and is_number and math.isfinite(float(str(value))):
                found.setdefault(visible(name), []).append((float(step), float(str(value))))
    return {name: _thinned(points) for name, points in found.items() if len(points) > 1}


def _present(
    store: Store, key: str | None, record: ActionRecord | None
) -> dict[str, list[tuple[float, float]]]:
    if record is not None:
        return series(store.metrics(record))
    work = store.attempt(key).work if key is not None else None
    return series(read_metrics(work / "logs")) if work is not None else {}


def _others(
    stage: str, record: ActionRecord | None, known: Sequence[ActionRecord]
) -> list[ActionRecord]:
    own = None if record is None else record.key
    return [r for r in known if r.stage_name == stage and r.key != own][:MAX_OTHERS]


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= MAX_POINTS:
        return points
    step = (len(points) - 1) / (MAX_POINTS - 1)
    return [points[round(number * step)] for number in range(MAX_POINTS)]
