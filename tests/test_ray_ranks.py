"""A trainer of two processes whose policy is sampled by actors of Ray, which rank 0 drives."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from test_engine_equality import Console
from test_engine_parts import notes_of, run_stage
from tiny import MAX_CHARS, grpo_params, problems, save_policy, stage

from r1pipe.rows import write_problems

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(
        not (find_spec("ray") and find_spec("deepspeed")), reason="needs ray and deepspeed"
    ),
]
GROUP = 4


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start a cluster that ranks join by its address."""
    from r1pipe.generate.ray_cluster import RayCluster

    ray = RayCluster("local", 2).ray
    monkeypatch.setenv("RAY_ADDRESS", str(ray.get_runtime_context().gcs_address))
    yield
    ray.shutdown()


def trained(folder: Path, name: str, **generator: Any) -> tuple[bytes, Console, dict[str, Any]]:
    """Return the weights that two ranks write, what they log and what they note."""
    kind, console = stage("grpo"), Console()
    params = grpo_params(
        num_steps=4, minibatches_per_rollout=2, problems_per_step=3, group_size=GROUP, kl_coef=0.01
    )
    engine = {"backend": "deepspeed", "num_processes": 2, "zero_stage": 3}
    own = {"engine": engine, "generator": generator, "workers": 1, "max_batch": GROUP}
    run = kind.run_model.model_validate(own)
    inputs = {"model": folder / "policy", "problems": folder / "problems"}
    context = run_stage(kind, folder / name, params, run, inputs, console)
    written = context.output("model") / "model.safetensors"
    return written.read_bytes(), console, notes_of(context)


def test_two_ranks_write_what_they_write_with_samplers_of_their_own(
    cluster: None, tmp_path: Path
) -> None:
    save_policy(tmp_path / "policy")
    write_problems(tmp_path / "problems", problems(12, max_chars=MAX_CHARS))
    here, console, _ = trained(tmp_path, "here")
    there, other, notes = trained(tmp_path, "there", cluster="ray", data_parallel=2)
    assert there == here, "bit by bit: a batch is a group in both"
    assert notes["parity_after_push"] < 1e-5
    for step, values in console.logged.items():
        assert other.logged[step]["reward"] == values["reward"]
        assert other.logged[step]["mismatch_kl"] < 1e-6
