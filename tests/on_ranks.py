"""Stages that tests run on ranks: the console, the attempt, and a stage that calls a function."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1pipe.launch.context import RunContext
from r1pipe.launch.launcher import run_kind
from r1pipe.launch.stopping import Stopper
from r1pipe.manifest.kinds import load_kind
from r1pipe.stage import Inputs

STAGE = '''
"""Call a function of the tests on every rank."""

import importlib
import sys

from r1pipe.ranks import Launch
from r1pipe.stage import StageModel

sys.path.insert(0, {tests!r})
VERSION = 1
INPUTS = {{}}
OUTPUTS = {{"rows": "rows"}}


class Params(StageModel):
    function: str


class Run(StageModel):
    processes: int

    def launch(self):
        return Launch(self.processes)


def run(context, params, run, inputs):
    module, _, name = params.function.partition(":")
    getattr(importlib.import_module(module), name)(context, inputs)
'''


class Console:
    """Keeps what is logged, and asks for a stop at a step."""

    def __init__(self, stop_at: int = 0) -> None:
        self.logged: dict[int, dict[str, float]] = {}
        self.stopper = Stopper()
        self.stop_at = stop_at

    def progress(self, name: str, step: int, total: int | None, values: Any) -> None:
        self.logged.setdefault(step, {}).update(values)
        if step == self.stop_at:
            self.stopper.ask(15)


def context_in(folder: Path, console: Any, outputs: tuple[str, ...] = ("rows",)) -> RunContext:
    """Return the context of an attempt in a folder."""
    for part in ("logs", "checkpoints", "journal"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    return RunContext("curves", folder, outputs, {}, console.progress, console.stopper, 1000.0)


def run_stage(
    kind: Any, folder: Path, params: Any, run: Any, inputs: Mapping[str, Path], console: Any
) -> RunContext:
    """Run a stage in its processes; its attempt can be gone on with."""
    context = context_in(folder, console, tuple(kind.outputs))
    try:
        run_kind(kind, context, params, run, Inputs(inputs))
    finally:
        context.close()
        if (folder / "ranks").exists():
            (folder / "ranks").rename(folder.with_name(f"ranks-{time.monotonic_ns()}"))
    return context


def notes_of(context: RunContext) -> dict[str, Any]:
    """Return the facts that a stage has noted."""
    found: dict[str, Any] = context.stage_log.facts
    return found


def call_on_ranks(
    function: str, processes: int, folder: Path, inputs: Mapping[str, Path] | None = None
) -> tuple[RunContext, Console]:
    """Have ranks call `module:name` of the tests with their context and inputs; they work in
    `folder/work`."""
    (folder / "called.py").write_text(STAGE.format(tests=str(Path(__file__).parent)))
    kind: Any = load_kind("called", folder / "called.py")
    params, run = kind.params(function=function), kind.run_model(processes=processes)
    console = Console()
    return run_stage(kind, folder / "work", params, run, inputs or {}, console), console
