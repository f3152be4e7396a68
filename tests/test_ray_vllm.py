"""GRPO whose rollouts vLLM samples in an actor of Ray, which gets weights in both ways."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from test_generator_conformance import model
from tiny import MAX_CHARS, FakeContext, grpo_params, problems, stage, tokenizer

from r1pipe.generate.ray_policy import RayPolicy
from r1pipe.models.policy import load_model, save_model
from r1pipe.rows import write_problems
from r1pipe.stage import Inputs

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(not (find_spec("ray") and find_spec("vllm")), reason="needs ray and vllm"),
]
NUM_STEPS = 3


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Start a cluster, which the stage uses."""
    from r1pipe.generate.ray_cluster import RayCluster

    ray = RayCluster("local", 2).ray
    yield ray
    ray.shutdown()


@pytest.mark.parametrize("transfer", ["object_store", "broadcast"])
def test_a_policy_is_trained_on_what_vllm_samples_in_an_actor(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transfer: str
) -> None:
    """Which is killed once, where weights outlive that."""
    dies = transfer == "object_store"
    folder, pushed = tmp_path / "policy", list[int]()
    save_model(model(), tokenizer(), folder)
    write_problems(tmp_path / "problems", problems(12, max_chars=MAX_CHARS))
    push = RayPolicy.load_weights

    def kills_before_the_last_rollout(self: RayPolicy, tensors: Any) -> None:
        push(self, tensors)
        pushed.append(self.pushed_bytes)
        if dies and len(pushed) == 3 + NUM_STEPS:  # three are the parity check's
            os.kill(int(self.engines.all[0].place.split()[-1]), signal.SIGKILL)

    monkeypatch.setattr(RayPolicy, "load_weights", kills_before_the_last_rollout)
    kind, context = stage("grpo"), FakeContext(tmp_path / "work")
    small = {"kv_cache_mb": 16, "max_num_seqs": 32}
    generator = {"backend": "vllm", "cluster": "ray", "weight_transfer": transfer, **small}
    run = kind.run_model.model_validate({"generator": generator})
    params = grpo_params(num_steps=NUM_STEPS, minibatches_per_rollout=1, kl_coef=0.0)
    inputs = Inputs({"model": folder, "problems": tmp_path / "problems"})
    kind.run(context, params, run, inputs)
    assert context.notes["parity"] < 1e-5
    assert context.notes["parity_after_push"] < 1e-5
    assert len(context.logged) == NUM_STEPS
    assert max(context.column("mismatch_kl")) < 1e-6, "the last weights too, in a new process"
    count = sum(each.numel() for each in load_model(folder).parameters())
    assert all(4 * count <= size < 4 * count + 4096 for size in pushed)
    assert ["is lost and started again" in text for text in context.warnings].count(True) == dies
