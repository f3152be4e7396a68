"""A tiny world for tests of the store: kinds of stages made of plain functions, and manifests."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from r1pipe.manifest import Manifest, Origin, Ref, SourceNode, StageNode
from r1pipe.pipeline.run import run as run_manifest
from r1pipe.stage import Input, Inputs, StageKind, StageModel
from r1pipe.store import signatures
from r1pipe.store.store import Store

EMPTY_STAGE = Path(__file__).with_name("empty_stage.py")
"""The file of a kind that is made of plain functions."""
STEPS = 8
"""Of the stages that are killed."""


class Params(StageModel):
    """Parameters of every kind of this world."""

    number: int = 1
    """Decides the result."""
    steps: int = 10
    """Decides the result."""
    text: str = ""
    """Decides the result."""


class Run(StageModel):
    """Decides nothing."""

    workers: int = 1
    """Decides nothing."""


class QuietConsole:
    """Remembers what the pipeline says."""

    def __init__(self) -> None:
        self.events: list[tuple[str, ...]] = []

    def plan(self, plan: Any) -> None:
        self.events.append(("plan",))

    def stage_started(self, stage: Any) -> None:
        self.events.append(("started", stage.name, stage.status))

    def progress(
        self, stage: str, step: int, total: int | None, values: Mapping[str, float]
    ) -> None:
        return

    def doing(self, stage: str, what: str, done: int, total: int) -> None:
        return

    def stage_finished(
        self,
        name: str,
        status: str,
        seconds: float,
        artifact_id: str | None,
        facts: Mapping[str, object] | None = None,
    ) -> None:
        self.events.append(("finished", name, status))

    def message(self, text: str) -> None:
        self.events.append(("message", text))

    def close(self) -> None:
        return

    def started(self) -> list[str]:
        return [event[1] for event in self.events if event[0] == "started"]


def write_number(context: Any, params: Params, run: Run, inputs: Inputs) -> None:
    """Write the sum of the parameter and all inputs' numbers."""
    total = params.number + sum(read_number(path) for path in flat(inputs))
    (context.output("data") / "number.json").write_text(json.dumps(total))
    context.log(1, 1, loss=float(total))
    context.sample(total=total)
    context.note(rows=1)


def halve(context: Any, params: Params, run: Run, inputs: Inputs) -> None:
    """Write half the input, rounded down: two inputs may give the same bytes."""
    number = sum(read_number(path) for path in flat(inputs)) // 2
    (context.output("data") / "number.json").write_text(json.dumps(number))


def two_outputs(context: Any, params: Params, run: Run, inputs: Inputs) -> None:
    """Write the parity and the number apart."""
    (context.output("even") / "even.json").write_text(json.dumps(params.number % 2 == 0))
    (context.output("data") / "number.json").write_text(json.dumps(params.number))


def train(context: Any, params: Params, run: Run, inputs: Inputs) -> None:
    """Fold the step numbers into one value, from the last checkpoint on."""
    found = context.checkpoints.latest()
    done, value = 0, params.number
    if found is not None:
        done = found[0]
        value = json.loads((found[1] / "state.json").read_text())
    for step in range(done + 1, params.steps + 1):
        value = (value * 31 + step) % 1_000_003
        context.log(step, params.steps, loss=float(value))
        with context.checkpoints.saving(step) as folder:
            (folder / "state.json").write_text(json.dumps(value))
        context.stop_if_asked()
    (context.output("data") / "number.json").write_text(json.dumps(value))


def sample(context: Any, params: Params, run: Run, inputs: Inputs) -> None:
    """Journal one unit per step, then write all rows."""
    journal = context.journal("rows")
    done = journal.done()
    for unit in range(params.steps):
        if f"u{unit}" not in done:
            rows = [{"unit": unit, "row": row, "value": unit * 7 + row} for row in range(3)]
            journal.append(f"u{unit}", rows)
            context.stop_if_asked()
    lines = [json.dumps(row) for row in journal.rows()]
    (context.output("data") / "rows.jsonl").write_text("\n".join(lines))
    (context.output("data") / "number.json").write_text(json.dumps(len(lines)))


def flat(inputs: Inputs) -> list[Path]:
    """Return all paths among a stage's inputs."""
    paths: list[Path] = []
    for _, given in inputs.items():
        paths += [given] if isinstance(given, Path) else given.values()
    return paths


def read_number(path: Path) -> int:
    """Return an artifact's number, or a source's size."""
    if path.is_file():
        return len(path.read_bytes())
    return int(json.loads((path / "number.json").read_text()))


def kind(
    function: Callable[..., None] = write_number,
    *,
    name: str = "",
    version: int = 1,
    outputs: Mapping[str, str] | None = None,
    path: Path = EMPTY_STAGE,
) -> StageKind:
    """Return a kind of stage."""
    return StageKind(
        kind=name or function.__name__.replace("_", "-"),
        version=version,
        params=Params,
        run_model=Run,
        inputs={"a": Input("rows", optional=True), "many": Input("rows", many=True)},
        outputs=outputs or {"data": "rows"},
        run=function,
        path=path,
    )


def origin(line: int) -> Origin:
    """Return a place in the manifest."""
    return Origin("tiny.yaml", line, 3)


def stage(
    name: str,
    of: StageKind | None = None,
    inputs: Mapping[str, Any] | None = None,
    **params: Any,
) -> StageNode:
    """Return a stage; an input `stage`, `stage.output` or `@source`, or {label: such a name}."""
    refs = {
        label: _ref(given)
        if isinstance(given, str)
        else {inner: _ref(each) for inner, each in given.items()}
        for label, given in (inputs or {}).items()
    }
    workers = params.pop("workers", 1)
    paths = [*(f"params.{field}" for field in params), *(f"inputs.{label}" for label in refs)]
    origins = {path: origin(10 + line) for line, path in enumerate(paths)}
    chosen: Any = of or kind()
    run = chosen.run_model(workers=workers)
    return StageNode(name, chosen, refs, chosen.params(**params), run, origins)


def _ref(text: str) -> Ref:
    if text.startswith("@"):
        return Ref(text[1:], None, is_source=True)
    name, _, output = text.partition(".")
    return Ref(name, output or "data", is_source=False)


def manifest(*stages: StageNode, sources: Mapping[str, Path] | None = None) -> Manifest:
    """Return a manifest of stages in topological order."""
    nodes = {
        name: SourceNode(name, path, None, None, "rows", origin(5))
        for name, path in (sources or {}).items()
    }
    return Manifest(Path("tiny.yaml"), "tiny", "laptop", {s.name: s for s in stages}, nodes)


def chain(number: int = 1) -> Manifest:
    """Return first -> second -> third."""
    return manifest(
        stage("first", number=number),
        stage("second", kind(halve), {"a": "first"}),
        stage("third", kind(), {"a": "second"}),
    )


def counted(function: Callable[..., None], path: Path) -> Callable[..., None]:
    """Return a stage that writes down each step that it logs, over all its attempts."""

    def run_counted(context: Any, params: Any, run: Any, inputs: Any) -> None:
        class Counting:
            def __getattr__(self, name: str) -> Any:
                return getattr(context, name)

            def stop_if_asked(self) -> None:
                with path.open("a") as file:
                    file.write("x")
                context.stop_if_asked()

        function(Counting(), params, run, inputs)

    return run_counted


def two_stages(function: Callable[..., None], steps_path: Path) -> Manifest:
    counting = kind(counted(function, steps_path), name=function.__name__)
    return manifest(stage("work", counting, steps=STEPS), stage("after", inputs={"a": "work"}))


def build(root: Path, made: Manifest) -> list[str]:
    return run_manifest(made, Store(root), QuietConsole()).built


def ids(root: Path) -> Mapping[str, str]:
    return {record.stage_name: record.artifact_id for record in Store(root).records()}


def assert_whole(root: Path, made: Manifest) -> None:
    """Assert that all that a reader can see is whole, by digest."""
    store = Store(root)
    for path in store.objects.iterdir():
        signatures.verify(path, path.name, Path("/dev/null/none"), full=True)
    for record in store.records():
        assert store.is_intact(record)
