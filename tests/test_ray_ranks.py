"""A trainer of two processes whose policy is sampled by actors of Ray, which rank 0 drives."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from on_ranks import Console, notes_of, run_stage
from test_ray_engines import actors
from tiny import MAX_CHARS, grpo_params, problems, save_policy, stage

from r1pipe.errors import CommonError, Interrupted
from r1pipe.rows import write_problems

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(
        not (find_spec("ray") and find_spec("deepspeed")), reason="needs ray and deepspeed"
    ),
]
GROUP = 4


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Start a cluster that ranks join by its address."""
    from r1pipe.generate.ray_cluster import RayCluster

    ray = RayCluster("local", 2).ray
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", str(ray.get_runtime_context().gcs_address))
        yield
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ranks")
    save_policy(path / "policy")
    write_problems(path / "problems", problems(12, max_chars=MAX_CHARS))
    return path


def trained(
    folder: Path,
    name: str,
    console: Console,
    *,
    staleness: int = 0,
    ranks: int = 2,
    **generator: Any,
) -> tuple[bytes, dict[str, Any]]:
    """Return the weights that ranks write, and what they note."""
    kind = stage("grpo")
    params = grpo_params(
        num_steps=8,
        minibatches_per_rollout=2,
        problems_per_step=3,
        group_size=GROUP,
        kl_coef=0.01,
        staleness=staleness,
        sampler_truncation=2.0,
    )
    engine = {"backend": "deepspeed", "num_processes": ranks, "zero_stage": 3}
    own = {"engine": engine, "generator": generator, "workers": 1, "max_batch": GROUP}
    run = kind.run_model.model_validate(own)
    inputs = {"model": folder / "policy", "problems": folder / "problems"}
    context = run_stage(kind, folder / name, params, run, inputs, console)
    written = context.output("model") / "model.safetensors"
    return written.read_bytes(), notes_of(context)


class Deadly(Console):
    """Kills the engines after the second update."""

    def progress(self, name: str, step: int, total: int | None, values: Any) -> None:
        super().progress(name, step, total, values)
        for pid in actors("PolicyActor") if step == 2 else ():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def own(cluster: None, folder: Path) -> tuple[bytes, Console]:
    """Return what two ranks write with samplers of their own, and what they log."""
    console = Console()
    return trained(folder, "here", console)[0], console


@pytest.mark.parametrize("transfer", ["object_store", "broadcast"])
def test_two_ranks_write_what_they_write_with_samplers_of_their_own(
    own: tuple[bytes, Console], folder: Path, transfer: str
) -> None:
    other, (here, console) = Console(), own
    apart: Any = {"cluster": "ray", "data_parallel": 2, "weight_transfer": transfer}
    there, notes = trained(folder, transfer, other, **apart)
    assert there == here, "bit by bit: a batch is a group in both"
    assert notes["parity_after_push"] < 1e-5
    for step, values in console.logged.items():
        assert other.logged[step]["reward"] == values["reward"]
        assert other.logged[step]["mismatch_kl"] < 1e-6


def test_ranks_go_on_from_their_last_update_if_a_broadcast_breaks_off(
    own: tuple[bytes, Console], folder: Path
) -> None:
    deadly, after = Deadly(), Console()
    apart: Any = {"cluster": "ray", "weight_transfer": "broadcast"}
    with pytest.raises(CommonError, match=r"engine 0 .* is lost .* can be resumed"):
        trained(folder, "broken", deadly, **apart)
    assert trained(folder, "broken", after, **apart)[0] == own[0]
    assert min(after.logged) == max(deadly.logged) + 1, "no update was lost"


@pytest.fixture(scope="module")
def whole(cluster: None, folder: Path) -> tuple[bytes, Console]:
    """Return what two ranks write that sample ahead, and what they log."""
    console = Console()
    written, notes = trained(folder, "whole", console, staleness=1, cluster="ray")
    assert [row["rollout"] for row in notes["timeline"]] == [0, 1, 2, 3]
    return written, console


def test_two_ranks_sample_ahead_as_one_does(whole: tuple[bytes, Console], folder: Path) -> None:
    alone, logged = Console(), whole[1].logged
    trained(folder, "alone", alone, staleness=1, ranks=1, cluster="ray")
    for step in range(1, 9):
        assert logged[step]["reward"] == alone.logged[step]["reward"]
        assert logged[step]["loss"] == pytest.approx(alone.logged[step]["loss"], abs=1e-4)


def test_ranks_whose_engines_are_gone_go_on_from_their_last_update(
    whole: tuple[bytes, Console], folder: Path
) -> None:
    deadly, after = Deadly(), Console()
    with pytest.raises(CommonError, match=r"engine 0 .* is lost after 0 restarts"):
        trained(folder, "lost", deadly, staleness=1, cluster="ray", max_restarts=0)
    assert trained(folder, "lost", after, staleness=1, cluster="ray")[0] == whole[0]
    assert min(after.logged) == max(deadly.logged) + 1, "no update was lost"


def test_ranks_that_are_stopped_go_on_to_the_same_bytes(
    whole: tuple[bytes, Console], folder: Path
) -> None:
    stopped = Console()
    stopped.stop_at = 2
    with pytest.raises(Interrupted, match="SIGTERM"):
        trained(folder, "moved", stopped, staleness=1, cluster="ray")
    assert 2 <= max(stopped.logged) < 8
    assert trained(folder, "moved", Console(), staleness=1, cluster="ray")[0] == whole[0]
