"""What a report shows of a manifest and its store, as plain values for the page.

Text that a model wrote is data: control and direction characters are written out here, and the
page escapes the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from r1pipe.keys import JsonObject
from r1pipe.pipeline.planning import Plan, PlannedStage, plan
from r1pipe.report.curves import Curve, curves_of
from r1pipe.report.flow import OUTPUT, Flow, flow_of
from r1pipe.report.graph import Drawing, draw
from r1pipe.report.samples import Samples, collect_samples
from r1pipe.report.scores import Board, board_of
from r1pipe.report.timeline import FACT, Timeline, timeline_of
from r1pipe.settings import ComputeRun
from r1pipe.text import format_bytes, format_duration, short_id, visible

if TYPE_CHECKING:
    from r1pipe.manifest import Manifest
    from r1pipe.store.actions import ActionRecord
    from r1pipe.store.store import Store

STATES = {
    "hit": "built",
    "run": "to build",
    "resume": "stopped",
    "waits": "waits",
    "lost": "data gone",
}
"""A plan's word for a stage -> the report's."""
APART = ("predicted", "warnings", "nothing_learned", FACT)
MAX_FACT_CHARS = 2_000


@dataclass(frozen=True)
class StageView:
    """One stage: what it is, what came of it, and where that came from."""

    name: str
    kind: str
    state: str
    reason: str
    took: str = ""
    seconds: float = 0.0
    gpu_hours: float = 0.0
    price: float | None = None
    """Of the GPU-hours, in the currency of `run.price_per_gpu_hour`."""
    memory: str = ""
    size: str = ""
    made: str = ""
    key: str = ""
    artifact: str = ""
    inputs: list[tuple[str, str, str]] = field(default_factory=list)
    """Input, the stage or source that it reads, the id."""
    params: list[tuple[str, str]] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    has_learned: bool = True
    """False for a training whose rewards never differed."""
    num_modules: int = 0

    @property
    def shown(self) -> str:
        """What the graph says under the name: time and GPU-hours."""
        return f"{self.took}, {self.cost}" if self.gpu_hours else self.took

    @property
    def cost(self) -> str:
        """GPU-hours as text; empty on a CPU."""
        return f"{_hours_text(self.gpu_hours)} GPU-h" if self.gpu_hours else ""


@dataclass(frozen=True)
class Report:
    """Everything that one page shows."""

    title: str
    manifest: str
    profile: str
    made: str
    took: str
    cost: str
    """GPU-hours of all stages and their price; empty on a CPU."""
    num_built: int
    num_stages: int
    stages: list[StageView]
    drawing: Drawing
    board: Board | None
    curves: list[Curve]
    timelines: list[Timeline]
    flows: list[Flow]
    awaited: list[tuple[str, str]]
    """Stages whose candidates are not counted yet, and their states."""
    samples: Samples

    def data(self) -> JsonObject:
        """Return what the page's script reads, as JSON values."""
        found = self.samples
        samples = {"stages": found.stages, "problems": found.problems, "rows": found.rows}
        return {"curves": [vars(each) for each in self.curves], "samples": samples}


def make_report(manifest: Manifest, store: Store, max_samples: int) -> Report:
    """Collect what is in the store of a manifest's stages; `max_samples` of each evaluation."""
    found = plan(manifest, store)
    stages = [_view(stage, found, manifest, store) for stage in found.stages]
    records = found.records
    names = {stage.name: stage.state for stage in stages}
    inputs = {stage.name: [source for _, source, _ in stage.inputs] for stage in stages}
    return Report(
        title=visible(" / ".join(filter(None, (manifest.name, manifest.profile)))),
        manifest=visible(str(manifest.path)),
        profile=manifest.profile or "-",
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        took=format_duration(sum(stage.seconds for stage in stages)),
        cost=_total_cost(stages),
        num_built=sum(stage.state == "built" for stage in stages),
        num_stages=len(stages),
        stages=stages,
        drawing=draw(inputs, names, {stage.name: stage.shown for stage in stages}),
        board=board_of(records, store),
        curves=list(curves_of(found, store)),
        timelines=[
            line for name, r in records.items() if (line := timeline_of(name, r.facts)) is not None
        ],
        flows=[flow for n, record in records.items() if (flow := flow_of(n, record)) is not None],
        awaited=[
            (stage.name, stage.state)
            for stage in stages
            if stage.name not in records and OUTPUT in manifest.stages[stage.name].kind.outputs
        ],
        samples=collect_samples(records, store, max_samples),
    )


def _view(stage: PlannedStage, found: Plan, manifest: Manifest, store: Store) -> StageView:
    node, record = manifest.stages[stage.name], found.records.get(stage.name)
    if record is None:
        is_running = stage.key is not None and store.lock_owner(stage.key) is not None
        refs = [
            (name, ref.name, "")
            for name, given in node.inputs.items()
            for ref in (given.values() if isinstance(given, Mapping) else [given])
        ]
        state = "running" if is_running else STATES[stage.status]
        return StageView(stage.name, stage.kind, state, visible(stage.reason), inputs=refs)
    hours = _gpu_hours(record)
    price = node.run.price_per_gpu_hour if isinstance(node.run, ComputeRun) else None
    return StageView(
        stage.name,
        stage.kind,
        STATES[stage.status],
        visible(stage.reason),
        took=format_duration(record.seconds),
        seconds=record.seconds,
        gpu_hours=hours,
        price=None if price is None or not hours else hours * price,
        memory=format_bytes(record.peak_rss_bytes),
        size=format_bytes(record.size),
        made=record.created[:19].replace("T", " "),
        key=record.key,
        artifact=record.artifact_id,
        inputs=list(_inputs(record)),
        params=list(_leaves(record.preimage["params"])),
        facts=list(_leaves({n: v for n, v in record.facts.items() if n not in APART})),
        warnings=list(map(visible, record.warnings())),
        has_learned=record.nothing_learned is None,
        num_modules=len(record.code),
    )


def _gpu_hours(record: ActionRecord) -> float:
    """Return the hours that a stage took times its GPUs, as it was placed; 0 on a CPU."""
    placed = record.facts.get("predicted")
    if not isinstance(placed, dict) or not str(placed.get("device")).startswith("cuda"):
        return 0.0
    devices = placed.get("devices")
    return record.seconds / 3600 * devices if isinstance(devices, int) else 0.0


def _hours_text(hours: float) -> str:
    """Return three digits of hours, and all of those before the point."""
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"


def _total_cost(stages: Sequence[StageView]) -> str:
    hours = sum(stage.gpu_hours for stage in stages)
    prices = [stage.price for stage in stages if stage.price is not None]
    texts = [f"{_hours_text(hours)} GPU-hours"] if hours else []
    return ", ".join([*texts, f"at a price of {sum(prices):,.2f}"] if prices else texts)


def _inputs(record: ActionRecord) -> Iterator[tuple[str, str, str]]:
    for name, link in record.links():
        source = link.get("stage") or f"source {link.get('source', '?')}"
        yield visible(name), visible(str(source)), short_id(str(link["id"]))


def _leaves(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted path, text) of nested values; lists are one leaf."""
    if isinstance(value, Mapping) and (value or not prefix):
        for name, item in value.items():
            yield from _leaves(item, f"{prefix}.{name}" if prefix else str(name))
        return
    text = visible(_text(value))
    more = f" ... ({len(text):,} characters)" if len(text) > MAX_FACT_CHARS else ""
    yield visible(prefix), text[:MAX_FACT_CHARS] + more


def _text(value: object) -> str:
    if isinstance(value, Sequence | Mapping) and not value:
        return "empty" if isinstance(value, str) else "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value))
    return str(value)
