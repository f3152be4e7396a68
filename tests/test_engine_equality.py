"""PyTorch in one process, DeepSpeed in one and two, ZeRO 0 to 3: the same curves, step by step."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from curves import CURVES, NUM_STEPS, OPTIMIZER, Curve, curve_of
from on_ranks import Console, call_on_ranks, run_stage
from tiny import corpus_rows, model, save_policy, stage

from r1pipe.engine_settings import EngineRun
from r1pipe.errors import Interrupted
from r1pipe.models.policy import load_model
from r1pipe.rows import write_rows
from r1pipe.train.backends import make_engine

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(not find_spec("deepspeed"), reason="deepspeed is missing"),
]


@cache
def torch_curve(task: str) -> Curve:
    return curve_of(task, EngineRun(workers=1))


@pytest.fixture(scope="module", params=[1, 2])
def logged(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, dict[str, float]]:
    """Return all curves of DeepSpeed in one process, or in two."""
    folder = tmp_path_factory.mktemp("curves")
    return call_on_ranks("curves:log_curves", request.param, folder)[1].logged


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, float]]:
    """Return all curves of two processes that share each micro-batch."""
    folder = tmp_path_factory.mktemp("shared")
    return call_on_ranks("curves:log_curves_of_shared_rows", 2, folder)[1].logged


def assert_same_curve(logged: dict[int, dict[str, float]], task: str, case: str) -> None:
    """Compare every step with PyTorch's in one process."""
    expected = torch_curve(task)
    assert sorted(logged) == list(range(1, NUM_STEPS + 1))
    spread = max(loss for loss, _ in expected) - min(loss for loss, _ in expected)
    assert spread > 0.05, "a curve that does not move shows nothing"
    for step, (loss, norm) in enumerate(expected, start=1):
        found = logged[step]
        assert found[f"{task}-{case}-loss"] == pytest.approx(loss, abs=1e-4), step
        assert found[f"{task}-{case}-norm"] == pytest.approx(norm, rel=1e-3, abs=1e-4), step


@pytest.mark.parametrize(
    ("task", "zero_stage"),
    [(task, number) for task in CURVES for number in range(4)],
)
def test_the_curves_agree_step_by_step(
    logged: dict[int, dict[str, float]], task: str, zero_stage: int
) -> None:
    assert_same_curve(logged, task, f"{zero_stage}-padded")


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize(
    ("task", "zero_stage"),
    [(task, number) for task in CURVES for number in (2, 3)],
)
def test_the_curves_of_ranks_that_share_micro_batches_agree_step_by_step(
    shared: dict[int, dict[str, float]], task: str, zero_stage: int, layout: str
) -> None:
    assert_same_curve(shared, task, f"{zero_stage}-{layout}")


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_each_of_two_ranks_holds_half_of_the_positions(
    shared: dict[int, dict[str, float]], zero_stage: int
) -> None:
    held, whole = (shared[1][f"{what}-{zero_stage}"] for what in ("held", "whole"))
    assert whole > 60
    assert held == -(-whole // 2)


# ---- the SFT stage, stopped and resumed on another number of processes --------------------------


class Sft:
    """The stage of the recipe on twelve rows: thirty steps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.adapter: dict[str, object] | None = None
        self.kind = stage("sft")
        self.inputs = {"model": save_policy(folder / "base"), "rows": folder / "rows"}
        write_rows(folder / "rows", corpus_rows(12, "chat"))

    def run(self, name: str, console: Console, **engine: Any) -> Path:
        optimizer = {"lr": 3e-3, "schedule": "cosine"}
        params = self.kind.params(
            seed=1,
            num_epochs=10,
            batch_size=4,
            max_tokens=100,
            optimizer=optimizer,
            adapter=self.adapter,
        )
        run = self.kind.run_model(engine=engine, micro_batch_tokens=64)
        context = run_stage(self.kind, self.folder / name, params, run, self.inputs, console)
        return context.output("model")


class Whole(NamedTuple):
    """A stage that ran undisturbed: its weights and what it logged."""

    sft: Sft
    weights: dict[str, torch.Tensor]
    logged: dict[int, dict[str, float]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Train with PyTorch in this process."""
    sft, console = Sft(tmp_path_factory.mktemp("sft")), Console()
    return Whole(sft, weights_of(sft.run("whole", console)), console.logged)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Train an adapter with DeepSpeed in one process, beside whole weights."""
    sft, console = Sft(tmp_path_factory.mktemp("adapter")), Console()
    sft.adapter = {"rank": 4, "alpha": 16.0}
    return Whole(sft, weights_of(sft.run("whole", console, **engine(1, 0))), console.logged)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: weight.detach() for name, weight in load_model(folder).named_parameters()}


def assert_trained_alike(whole: Whole, folder: Path, logged: dict[int, dict[str, float]]) -> None:
    """Compare the losses of all thirty steps, and the weights after them."""
    assert sorted(logged) == list(range(1, 31))
    for step, values in logged.items():
        assert values["loss"] == pytest.approx(whole.logged[step]["loss"], abs=1e-4)
    trained = weights_of(folder)
    assert trained.keys() == whole.weights.keys()
    for name, weight in whole.weights.items():
        torch.testing.assert_close(trained[name], weight, rtol=0, atol=2e-4)  # Adam's sign steps


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((2, 3), (1, 2)),
        ((1, 1), (2, 3)),
        ((2, 2), (0, 0)),
        ((2, 3, 2), (2, 3, 1)),
        ((2, 2), (4, 2, 2)),
    ],
)
def test_training_resumes_on_another_number_of_processes_and_stage(
    whole: Whole, first: tuple[int, ...], second: tuple[int, ...]
) -> None:
    stopped, console, name = Console(), Console(), f"moved-{first}-{second}"
    stopped.stop_at = 2
    with pytest.raises(Interrupted, match="SIGTERM"):
        whole.sft.run(name, stopped, **engine(*first))
    done = max(stopped.logged)
    assert 2 <= done < 30
    out = whole.sft.run(name, console, **engine(*second))
    assert sorted(console.logged) == list(range(done + 1, 31))
    assert_trained_alike(whole, out, stopped.logged | console.logged)
    assert {path.suffix for path in out.iterdir()} <= {".json", ".safetensors", ".jinja"}


@pytest.mark.parametrize(("first", "second"), [((2, 3), (1, 3)), ((2, 2), (2, 3))])
def test_an_adapter_beside_sharded_weights_resumes_and_is_merged_as_beside_whole_ones(
    adapted: Whole, first: tuple[int, ...], second: tuple[int, ...]
) -> None:
    stopped, console, name = Console(), Console(), f"moved-{first}-{second}"
    stopped.stop_at = 2
    with pytest.raises(Interrupted, match="SIGTERM"):
        adapted.sft.run(name, stopped, **engine(*first))
    out = adapted.sft.run(name, console, **engine(*second))
    assert_trained_alike(adapted, out, stopped.logged | console.logged)
    base = weights_of(adapted.sft.inputs["model"])
    moved = max(float((weight - base[n]).abs().max()) for n, weight in adapted.weights.items())
    assert moved > 0.01, "an adapter that does not move shows nothing"


def engine(processes: int, zero_stage: int, sequence_parallel: int = 1) -> dict[str, Any]:
    if not processes:
        return {"backend": "torch"}
    return {
        "backend": "deepspeed",
        "num_processes": processes,
        "zero_stage": zero_stage,
        "sequence_parallel": sequence_parallel,
    }


def test_the_torch_engine_s_curve_depends_on_its_clipping() -> None:
    """The comparison above would be empty if no gradient were clipped."""
    assert max(norm for _, norm in torch_curve("sft")) > OPTIMIZER.max_grad_norm
    loose = make_engine(model(), OPTIMIZER.model_copy(update={"max_grad_norm": 1e9}), EngineRun())
    other = CURVES["sft"](loose)
    assert abs(other[-1][0] - torch_curve("sft")[-1][0]) > 1e-3
