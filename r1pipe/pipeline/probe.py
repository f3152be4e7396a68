"""`plan --probe`: a few seconds of training and sampling by each installed engine.

The recipe's own stages do the work by way of the pipeline, so what is measured is what a run will
do: `pretrain` and `evaluate` on models of a few sizes, with synthetic rows, in a temporary store.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import TypeAlias

from r1pipe.costs.models import forward_flops, new_model_info
from r1pipe.costs.rates import (
    Calibration,
    Point,
    Speed,
    calibration_path,
    points_of,
    write_calibration,
)
from r1pipe.costs.versions import present_versions
from r1pipe.costs.work import ModelInfo
from r1pipe.engine_settings import ENGINE_BACKENDS
from r1pipe.errors import R1PipeError, StageError
from r1pipe.generator_settings import GENERATOR_BACKENDS
from r1pipe.launch.process import prepare_process
from r1pipe.machine import Machine, read_machine
from r1pipe.manifest import Manifest, load_manifest
from r1pipe.pipeline.run import run
from r1pipe.stage import StageModel
from r1pipe.store.store import Store
from r1pipe.text import visible

BUDGET_S = 3.0
"""Of one measurement, after its first step."""
WARM_STEPS = 1
"""Steps that are not counted: kernels are chosen, memory is taken."""
ROWS, PROBLEMS, SAMPLES, MAX_TOKENS = 4000, 64, 8, 48
ROW_TOKENS = 36.0
"""Mean tokens of a row of the synthetic corpus."""
MAX_PARAMETERS = {"cpu": 20_000_000, "cuda": 600_000_000}
"""Of models that are measured."""
SHAPES: Mapping[str, tuple[tuple[int, int, int, int], ...]] = {
    # hidden size, layers, heads, intermediate size; besides the manifest's own new models. Heads of
    # 32 or more: on a CPU vLLM computes no smaller ones
    "cpu": ((64, 2, 2, 192), (256, 4, 4, 768)),
    "cuda": ((256, 4, 4, 768), (1024, 12, 16, 3072), (2048, 8, 16, 6144)),
}

DEFAULT_VOCAB = 1024
"""Vocabulary if the manifest trains no tokenizer."""

Say = Callable[[str], None]
Shape: TypeAlias = Mapping[str, int]


class Enough(Exception):  # noqa: N818 - nothing went wrong
    """A measurement has used up its time."""


@dataclass
class Stopwatch:
    """A console that keeps the speeds of one stage, and ends the stage after `budget_s`."""

    stage: str
    budget_s: float
    speeds: list[float] = field(default_factory=list)
    warm_at: float = 0.0

    def progress(
        self, stage: str, step: int, total: int | None, values: Mapping[str, float]
    ) -> None:
        """Take a step's speed."""
        if stage != self.stage or "tokens_per_s" not in values:
            return
        if step <= WARM_STEPS:
            self.warm_at = time.monotonic()
            return
        self.speeds.append(values["tokens_per_s"])
        if time.monotonic() - self.warm_at > self.budget_s:
            raise Enough

    def plan(self, plan: object) -> None:
        """Ignore it."""

    def stage_started(self, stage: object) -> None:
        """Ignore it."""

    def doing(self, stage: str, what: str, done: int, total: int) -> None:
        """Ignore it."""

    def stage_finished(self, *how: object) -> None:
        """Ignore it."""

    def message(self, text: str) -> None:
        """Ignore it."""

    def close(self) -> None:
        """There is no terminal."""


@dataclass(frozen=True)
class Engine:
    """An engine to measure: `role` is `train` or `sample`."""

    role: str
    backend: str
    device: str

    @property
    def name(self) -> str:
        """The name in a calibration."""
        return f"{self.role}:{self.backend}:{self.device}"

    @property
    def run(self) -> dict[str, object]:
        """The `run` fields that choose it."""
        section = "engine" if self.role == "train" else "generator"
        return {"device": self.device, section: {"backend": self.backend}}


def probe(manifest: Manifest) -> None:
    """Measure each engine on this machine, on the shapes of the manifest's own new models too, and
    keep the result in the user's cache."""
    prepare_process()
    machine = read_machine()
    shapes, vocab = own_shapes(node.params for node in manifest.stages.values())
    calibration = measure(machine, torch_device(), shapes, vocab or DEFAULT_VOCAB, _say)
    path = calibration_path(machine.node)
    try:
        write_calibration(path, calibration)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StageError(
            f"{path}: {reason}; set XDG_CACHE_HOME to a folder that you may write"
        ) from error
    _say(f"kept in {path}")


def _say(text: str) -> None:
    print(visible(text), file=sys.stderr, flush=True)


def measure(
    machine: Machine,
    device: str,
    own_shapes: Sequence[Shape],
    vocab_size: int,
    say: Say,
    budget_s: float = BUDGET_S,
) -> Calibration:
    """Measure every engine that is installed, on standard shapes and on the manifest's own."""
    load = os.getloadavg()[0] / machine.cores
    shapes = fitting_shapes(device, own_shapes, vocab_size)
    speeds: dict[str, Speed] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="r1pipe-probe-") as folder:
        installed = engines(device, present_versions())
        path = write_manifest(Path(folder), installed, shapes, vocab_size)
        for engine in installed:
            say(f"measuring {engine.name}")
            try:
                speeds[engine.name] = _speed(path, engine, shapes, vocab_size, budget_s)
            except (R1PipeError, OSError, RuntimeError, ImportError) as error:
                failed[engine.name] = (str(error).splitlines() or [type(error).__name__])[0]
                say(f"{engine.name}: {failed[engine.name]}")
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return Calibration(asdict(machine), present_versions(), made, speeds, failed, load)


def engines(device: str, packages: Collection[str]) -> list[Engine]:
    """Return every engine whose package is among those that are installed."""
    return [
        Engine(role, name, device)
        for role, backends in (("train", ENGINE_BACKENDS), ("sample", GENERATOR_BACKENDS))
        for name in backends.table
        if backends.settings(name).package in packages
    ]


def fitting_shapes(device: str, own: Sequence[Shape], vocab_size: int) -> list[Shape]:
    """Return the standard shapes and the manifest's own, different ones that are not too large."""
    names = ("hidden_size", "num_layers", "num_heads", "intermediate_size")
    standard = [
        dict(zip(names, sizes, strict=True), num_kv_heads=sizes[2] // 2) for sizes in SHAPES[device]
    ]
    different = {json.dumps(shape, sort_keys=True): shape for shape in [*standard, *own]}
    return [
        shape
        for shape in different.values()
        if _info(shape, vocab_size).num_parameters <= MAX_PARAMETERS[device]
    ]


def write_manifest(
    folder: Path, found: Sequence[Engine], shapes: Sequence[Shape], vocab_size: int
) -> Path:
    """Write the manifest of all measurements; JSON is YAML."""
    world = {"mix": {"arithmetic": 0.7, "parity": 0.3}}
    problems = {"seed": 2, "num_problems": PROBLEMS, "world": world}
    rows = {"seed": 1, "num_rows": ROWS, "format": "r1-zero", "world": world}
    stages: dict[str, object] = {
        "rows": {"kind": "corpus", "params": rows},
        "problems": {"kind": "problems", "params": problems},
        "few": {"kind": "problems", "params": problems | {"num_problems": 2}},
        "tokenizer": {
            "kind": "tokenizer",
            "inputs": {"rows": {"rows": "rows"}},
            "params": {"vocab_size": vocab_size, "max_rows": ROWS},
        },
    }
    for number, shape in enumerate(shapes):
        stages[f"model-{number}"] = _pretrain(shape, 32, 0, {})
        # `run` is in no key: without a seed of its own an engine would find the other's result
        for seed, engine in enumerate(found, start=1):
            name = f"{engine.role}-{engine.backend}-{number}"
            model = f"model-{number}"
            if engine.role == "train":
                stages[name] = _pretrain(shape, ROWS, seed, engine.run)
            else:
                several = (SAMPLES, PROBLEMS // 2)
                stages[name] = _evaluate(model, "problems", several, seed, engine.run)
                stages[f"{name}-thin"] = _evaluate(model, "few", (1, 1), seed, engine.run)
    path = folder / "manifests" / "probe.yaml"
    path.parent.mkdir()
    path.write_text(json.dumps({"r1pipe": 1, "name": "probe", "stages": stages}, indent=1))
    return path


def _pretrain(
    shape: Shape, num_rows: int, seed: int, run: Mapping[str, object]
) -> dict[str, object]:
    params = {
        "seed": seed,
        "architecture": dict(shape),
        "max_rows": num_rows,
        "batch_size": 32,
        "optimizer": {"lr": 1e-3},
    }
    inputs = {"tokenizer": "tokenizer", "rows": "rows"}
    return {"kind": "pretrain", "inputs": inputs, "params": params, "run": dict(run)}


def _evaluate(
    model: str, problems: str, several: tuple[int, int], seed: int, run: Mapping[str, object]
) -> dict[str, object]:
    """Return an evaluation of so many samples of a problem, so many problems at a time."""
    params = {
        "seed": seed,
        "format": "r1-zero",
        "num_samples": several[0],
        "max_tokens": MAX_TOKENS,
        "num_resamples": 1,
        "problems_per_unit": several[1],
    }
    inputs = {"model": model, "problems": {"probe": problems}}
    return {"kind": "evaluate", "inputs": inputs, "params": params, "run": dict(run)}


def _speed(
    path: Path, engine: Engine, shapes: Sequence[Shape], vocab_size: int, budget_s: float
) -> Speed:
    """Measure one engine: seconds per token of each shape, and of a decoding step's layer.

    An engine may not take every shape; the error of the first is raised if it takes none.
    """
    points: list[Point] = []
    step_layers: list[float] = []
    refusals: list[R1PipeError] = []
    context = (ROW_TOKENS if engine.role == "train" else ROW_TOKENS + MAX_TOKENS) / 2
    for number, shape in enumerate(shapes):
        name = f"{engine.role}-{engine.backend}-{number}"
        flops = forward_flops(_info(shape, vocab_size), context)
        try:
            points.append((flops, 1 / _tokens_per_s(path, name, budget_s)))
            if engine.role == "sample":
                # one completion at a time: tokens per second are decoding steps per second
                steps_per_s = _tokens_per_s(path, f"{name}-thin", budget_s)
                step_layers.append(1 / steps_per_s / shape["num_layers"])
        except R1PipeError as error:
            refusals.append(error)
    if not points:
        raise refusals[0]
    return Speed(points_of(points), min(step_layers, default=0.0))


def _tokens_per_s(path: Path, stage: str, budget_s: float) -> float:
    """Run one stage, after its inputs, until it ends or its time is up."""
    watch = Stopwatch(stage, budget_s)
    store = Store(path.parents[1] / "artifacts")
    with suppress(Enough):
        run(load_manifest(path), store, watch, to=stage, checkpoint_every_s=1e9)
    if not watch.speeds:
        raise StageError(f"{stage}: it told no speed")
    return median(watch.speeds)


def _info(shape: Shape, vocab_size: int) -> ModelInfo:
    return new_model_info(SimpleNamespace(**shape), vocab_size)


def torch_device() -> str:
    """Return the device that stages would be measured on."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def own_shapes(params: Iterator[StageModel]) -> tuple[list[Shape], int | None]:
    """Return the architectures among stages' parameters, and the vocabulary of a new tokenizer."""
    shapes: list[Shape] = []
    vocab_size = None
    for each in params:
        architecture = getattr(each, "architecture", None)
        if architecture is not None:
            shapes.append(architecture.model_dump())
        vocab_size = getattr(each, "vocab_size", vocab_size)
    return shapes, vocab_size
