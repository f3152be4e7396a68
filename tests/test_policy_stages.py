"""What all stages that train a policy on its own completions do alike."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from tiny import FakeContext, save_policy, stage

from r1pipe.policies import training
from r1pipe.records import Problem
from r1pipe.rows import write_problems
from r1pipe.sandbox import strength
from r1pipe.sandbox.layers import REQUIRED
from r1pipe.sandbox.session import Outcome, Status
from r1pipe.stage import Inputs

PROGRAM = Problem(
    "p", "program", "double it", "", checker="code", meta={"tests": [{"input": "2", "output": "4"}]}
)
SHARED: dict[str, Any] = {
    "seed": 3,
    "format": "chat",
    "num_steps": 1,
    "problems_per_step": 1,
    "group_size": 2,
    "optimizer": {"lr": 1e-2},
    "rewards": {"accuracy": 1.0},
    "max_tokens": 8,
}
SMALLEST: dict[str, dict[str, Any]] = {
    "grpo": SHARED | {"clip_low": 0.2, "clip_high": 0.2, "kl_coef": 0.0},
    "ppo": SHARED | {"kl_coef": 0.0},
    "online-rft": SHARED,
    "on-policy-distil": SHARED,
}
"""Stage -> parameters of one small update."""


@pytest.mark.parametrize("kind", SMALLEST)
def test_programs_are_run_in_a_sandbox_as_strong_as_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    layers = {name: name != "network" for name in REQUIRED}
    monkeypatch.setattr(strength, "found", lambda: Outcome(Status.OK, "", "", layers=layers))
    monkeypatch.delenv(strength.VARIABLE, raising=False)
    seen: list[str | None] = []
    monkeypatch.setattr(
        training, "train_policy", lambda *_, **__: seen.append(os.environ.get(strength.VARIABLE))
    )
    folder = save_policy(tmp_path / "policy")
    write_problems(tmp_path / "problems", [PROGRAM])
    inputs = {"model": folder, "problems": tmp_path / "problems", "teacher": folder}
    of_kind, context = stage(kind), FakeContext(tmp_path / "work")
    run = of_kind.run_model(workers=1, max_batch=4, sandbox="weak")
    of_kind.run(context, of_kind.params(**SMALLEST[kind]), run, Inputs(inputs))
    assert seen == ["weak"]
    assert context.warnings[0].startswith("run.sandbox is weak, and this machine lacks: network")
