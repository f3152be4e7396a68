"""Measure this machine: a few seconds of training and sampling by each engine that is there.

The recipe's own stages do the work, so what is measured is what a run will do: `pretrain` and
`evaluate` on models of a few sizes, with synthetic rows, in a temporary folder.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from r1pipe.costs.models import forward_flops, new_model_info
from r1pipe.costs.rates import Calibration, Point, Speed, points_of
from r1pipe.costs.versions import present_versions
from r1pipe.costs.work import ModelInfo
from r1pipe.doctor.machine import Machine
from r1pipe.errors import R1PipeError
from r1pipe.stage import StageKind

BUDGET_S = 4.0
"""Of one measurement, after its first step."""
WARM_STEPS = 1
"""Steps that are not counted: kernels are chosen, memory is taken."""
ROWS, PROBLEMS, SAMPLES, MAX_TOKENS = 4000, 64, 8, 48
THIN_PROBLEMS = 2
MAX_MEASURED_PARAMETERS = {"cpu": 20_000_000, "cuda": 600_000_000}
SHAPES: Mapping[str, tuple[Mapping[str, int], ...]] = {
    "cpu": (
        {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "intermediate_size": 192},
        {"hidden_size": 256, "num_layers": 4, "num_heads": 4, "intermediate_size": 768},
    ),
    "cuda": (
        {"hidden_size": 256, "num_layers": 4, "num_heads": 4, "intermediate_size": 768},
        {"hidden_size": 1024, "num_layers": 12, "num_heads": 16, "intermediate_size": 3072},
        {"hidden_size": 2048, "num_layers": 8, "num_heads": 16, "intermediate_size": 6144},
    ),
}
"""What is measured besides the manifest's own new models."""
Say = Callable[[str], None]


class Enough(Exception):  # noqa: N818 - nothing went wrong
    """A measurement has used up its time."""


@dataclass
class ProbeContext:
    """The `Context` of a measurement: keeps the speeds that a stage logs, and ends it in time."""

    folder: Path
    budget_s: float = BUDGET_S
    name: str = "probe"
    input_ids: Mapping[str, Any] = field(default_factory=lambda: {"model": "probe"})
    speeds: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        from r1pipe.ranks import ALONE
        from r1pipe.store.checkpoints import SealedCheckpoints
        from r1pipe.store.journal import FileJournal

        self.ranks = ALONE
        self.checkpoints = SealedCheckpoints(self.folder / "checkpoints", lambda: None)
        self._journal_type: Callable[[Path], Any] = FileJournal
        self._journals: dict[str, Any] = {}
        self._began = time.monotonic()
        self._warm_at = 0.0

    def output(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def earlier(self, name: str) -> Path | None:
        return None

    def journal(self, name: str) -> Any:
        if name not in self._journals:
            self._journals[name] = self._journal_type(self.folder / f"{name}.jsonl")
        return self._journals[name]

    def log(self, step: int, total: int | None = None, **values: float) -> None:
        if step <= WARM_STEPS:
            self._warm_at = time.monotonic()
        else:
            self.speeds.append(values["tokens_per_s"])
            if time.monotonic() - self._warm_at > self.budget_s:
                raise Enough

    def sample(self, **row: Any) -> None:
        """Nobody looks."""

    def note(self, **facts: Any) -> None:
        """Nobody looks."""

    def checkpoint_due(self) -> bool:
        return False

    def stop_if_asked(self) -> None:
        """Ctrl-C ends the command."""

    def close(self) -> None:
        for journal in self._journals.values():
            journal.close()
        self.seconds = time.monotonic() - self._began


@dataclass
class Probe:
    """The files that measurements share, and the kinds of stage that make and use them."""

    kinds: Mapping[str, StageKind]
    root: Path
    vocab_size: int
    count: int = 0

    def run(
        self,
        kind: str,
        params: Mapping[str, Any],
        inputs: Mapping[str, Any],
        run: Mapping[str, Any] | None = None,
        budget_s: float = BUDGET_S,
    ) -> ProbeContext:
        """Run one stage until it ends or has used up its time."""
        found = self.kinds[kind]
        self.count += 1
        folder = self.root / f"{self.count}-{kind}"
        folder.mkdir()
        context = ProbeContext(folder, budget_s)
        checked = found.params.model_validate(dict(params), strict=False)
        settings = found.run_model.model_validate(dict(run or {}), strict=False)
        try:
            found.run(context, checked, settings, inputs)  # type: ignore[arg-type]
        except Enough:
            pass
        finally:
            context.close()
        return context

    def prepare(self) -> None:
        """Write rows, problems and a tokenizer."""
        world = {"mix": {"arithmetic": 0.7, "parity": 0.3}}
        rows = {"seed": 1, "num_rows": ROWS, "format": "r1-zero", "world": world}
        self.rows = self.run("corpus", rows, {}).output("rows")
        problems = {"seed": 2, "num_problems": PROBLEMS, "world": world}
        self.problems = self.run("problems", problems, {}).output("problems")
        few = problems | {"num_problems": THIN_PROBLEMS}
        self.few_problems = self.run("problems", few, {}).output("problems")
        size = {"vocab_size": self.vocab_size}
        inputs = {"rows": {"corpus": self.rows}}
        self.tokenizer = self.run("tokenizer", size, inputs).output("tokenizer")

    def train(self, shape: Mapping[str, Any], run: Mapping[str, Any], num_rows: int) -> Any:
        """Train a new model of a shape; return the context, whose output `model` is there if it
        came to its end."""
        params = {
            "seed": 1,
            "architecture": shape,
            "max_rows": num_rows,
            "batch_size": 32,
            "optimizer": {"lr": 1e-3},
        }
        return self.run("pretrain", params, {"tokenizer": self.tokenizer, "rows": self.rows}, run)

    def sample(self, model: Path, run: Mapping[str, Any], problems: Path, samples: int) -> Any:
        """Sample from a model; the first unit warms up."""
        params = {
            "seed": 1,
            "format": "r1-zero",
            "num_samples": samples,
            "max_tokens": MAX_TOKENS,
            "num_resamples": 1,
            "problems_per_unit": max(1, (PROBLEMS if samples > 1 else THIN_PROBLEMS) // 2),
        }
        inputs = {"model": model, "problems": {"probe": problems}}
        return self.run("evaluate", params, inputs, run)


def measure(
    kinds: Mapping[str, StageKind],
    machine: Machine,
    shapes: Sequence[Mapping[str, Any]],
    vocab_size: int,
    say: Say,
    budget_s: float = BUDGET_S,
) -> Calibration:
    """Measure all engines that are there, on the machine's own shapes and on `shapes`."""
    device, load = _device(), os.getloadavg()[0] / machine.cores
    speeds: dict[str, Speed] = {}
    failed: dict[str, str] = {}
    with _workplace() as root:
        probe = Probe(kinds, root, vocab_size)
        probe.prepare()
        models = {
            tuple(sorted(shape.items())): shape for shape in (*_standard(device), *shapes)
        }.values()
        fitting = [s for s in models if _info(s, vocab_size).num_parameters <= _limit(device)]
        for role, backend, run in engines(kinds, device):
            name = f"{role}:{backend}:{device}"
            say(f"measuring {name}")
            try:
                measured = _training if role == "train" else _sampling
                speeds[name] = measured(probe, fitting, run, budget_s)
            except (R1PipeError, OSError, RuntimeError, ImportError) as error:
                failed[name] = (str(error).splitlines() or [type(error).__name__])[0]
                say(f"{name}: {failed[name]}")
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return Calibration(asdict(machine), present_versions(), made, speeds, failed, load)


def engines(
    kinds: Mapping[str, StageKind], device: str
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield (role, backend, run settings) of every engine whose package is installed."""
    versions = present_versions()
    place = {"device": device}
    yield "train", "torch", place
    yield "sample", "transformers", place
    if "deepspeed" in versions and "engine" in kinds["pretrain"].run_model.model_fields:
        yield "train", "deepspeed", place | {"engine": {"backend": "deepspeed"}}
    if "vllm" in versions and "generator" in kinds["evaluate"].run_model.model_fields:
        yield "sample", "vllm", place | {"generator": {"backend": "vllm"}}


def _training(
    probe: Probe, shapes: Sequence[Mapping[str, Any]], run: Mapping[str, Any], budget_s: float
) -> Speed:
    points = []
    for shape in shapes:
        context = probe.train(shape, run, ROWS)
        points.append(_point(shape, probe.vocab_size, context.speeds, 20.0))
    return Speed(points_of(points))


def _sampling(
    probe: Probe, shapes: Sequence[Mapping[str, Any]], run: Mapping[str, Any], budget_s: float
) -> Speed:
    points, step_layers = [], []
    for shape in shapes:
        model = probe.train(shape, {"device": run["device"]}, 32).output("model")
        context = probe.sample(model, run, probe.problems, SAMPLES)
        points.append(_point(shape, probe.vocab_size, context.speeds, MAX_TOKENS / 2))
        thin = probe.sample(model, run, probe.few_problems, 1)
        # one completion at a time: tokens per second are decoding steps per second
        step_layers.append(1 / median(thin.speeds) / shape["num_layers"])
    return Speed(points_of(points), step_layer_s=min(step_layers))


def _point(
    shape: Mapping[str, Any], vocab_size: int, speeds: Sequence[float], context_tokens: float
) -> Point:
    return forward_flops(_info(shape, vocab_size), context_tokens), 1 / median(speeds)


def _standard(device: str) -> list[dict[str, Any]]:
    return [{"num_kv_heads": 2, **shape} for shape in SHAPES[device]]


def _info(shape: Mapping[str, Any], vocab_size: int) -> ModelInfo:
    from types import SimpleNamespace

    return new_model_info(SimpleNamespace(**shape), vocab_size)


def _limit(device: str) -> int:
    return MAX_MEASURED_PARAMETERS[device]


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def _workplace() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="r1pipe-probe-") as folder:
        yield Path(folder)
