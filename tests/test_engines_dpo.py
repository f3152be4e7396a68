"""The DPO stage on two DeepSpeed ranks: PyTorch's losses, the reference kept over a stop."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from on_ranks import Console, run_stage
from test_dpo import rows
from tiny import save_policy, stage

from r1pipe.errors import Interrupted
from r1pipe.rows import write_rows

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(not find_spec("deepspeed"), reason="deepspeed is missing"),
]
TWO: dict[str, Any] = {"backend": "deepspeed", "num_processes": 2, "zero_stage": 2}


def train(folder: Path, name: str, console: Console, engine: Any, adapter: Any = None) -> None:
    kind = stage("dpo")
    params = kind.params(
        seed=1,
        num_epochs=3,
        batch_size=4,
        max_tokens=100,
        beta=0.5,
        adapter=adapter,
        optimizer={"lr": 1e-3},
    )
    run = kind.run_model(engine=engine, micro_batch_tokens=120, pairs_per_unit=5)
    inputs = {"model": folder / "policy", "rows": folder}
    run_stage(kind, folder / name, params, run, inputs, console)


def assert_same_losses(found: dict[int, dict[str, float]], whole: Console) -> None:
    for step, values in found.items():
        for name in ("loss", "margin", "reward_chosen"):
            assert values[name] == pytest.approx(whole.logged[step][name], abs=1e-4), (step, name)


@pytest.mark.parametrize("adapter", [None, {"rank": 2, "alpha": 4.0}])
def test_two_ranks_have_the_losses_of_one_process_and_resume_with_their_reference(
    tmp_path: Path, adapter: Any
) -> None:
    save_policy(tmp_path / "policy")
    write_rows(tmp_path, rows(12))
    whole = Console()
    train(tmp_path, "whole", whole, {"backend": "torch"}, adapter)
    assert whole.logged[1]["margin"] == pytest.approx(0.0, abs=1e-5)
    assert abs(whole.logged[9]["margin"]) > 0.01, "a policy that does not move shows nothing"
    stopped = Console()
    stopped.stop_at = 2
    with pytest.raises(Interrupted, match="SIGTERM"):
        train(tmp_path, "moved", stopped, TWO, adapter)
    console = Console()
    train(tmp_path, "moved", console, TWO, adapter)
    assert sorted(stopped.logged | console.logged) == list(range(1, 10))
    assert min(console.logged) == max(stopped.logged) + 1
    assert_same_losses(stopped.logged | console.logged, whole)
