"""The PPO stage on two DeepSpeed ranks: policy and critic have the losses of one process."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from on_ranks import Console, run_stage
from tiny import MAX_CHARS, SMALL_RUN, problems, save_policy, stage

from r1pipe.rows import write_problems

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(not find_spec("deepspeed"), reason="deepspeed is missing"),
]


def logged(folder: Path, name: str, engine: dict[str, Any]) -> dict[int, dict[str, float]]:
    """Train on an engine; return what was logged, by step."""
    kind, console = stage("ppo"), Console()
    params = kind.params(**SMALL_RUN, critic_optimizer={"lr": 1e-2}, entropy_coef=0.01)
    inputs = {"model": folder / "policy", "problems": folder / "problems"}
    run = kind.run_model(engine=engine, micro_batch_tokens=120)
    context = run_stage(kind, folder / name, params, run, inputs, console)
    assert (context.output("critic") / "model.safetensors").exists()
    return console.logged


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_two_ranks_have_the_losses_of_one_process(tmp_path: Path, zero_stage: int) -> None:
    save_policy(tmp_path / "policy")
    write_problems(tmp_path / "problems", problems(12, max_chars=MAX_CHARS))
    whole = logged(tmp_path, "whole", {"backend": "torch"})
    two = {"backend": "deepspeed", "num_processes": 2, "zero_stage": zero_stage}
    found = logged(tmp_path, "two", two)
    assert sorted(found) == sorted(whole) == list(range(1, 7))
    assert whole[6]["value_loss"] != pytest.approx(whole[1]["value_loss"], abs=1e-3)
    for step, values in found.items():
        for name in ("loss", "value_loss", "entropy", "reward", "value_fit"):
            assert values[name] == pytest.approx(whole[step][name], abs=1e-3), (step, name)
