"""The whole recipe with vLLM sampling and two DeepSpeed processes training, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from command import ROOT

GRPO = ("zero", "reasoning-rl", "alignment-rl", "student-rl")
TRAINED = ("base", "cold-start-sft", "second-sft", "helpful-rm", "distil", *GRPO)
MODELS = ("base", "zero", "dev1", "dev2", "dev3", "r1", "student-base", "student-rl", "r1-distill")

pytestmark = [
    pytest.mark.engines,
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        not (find_spec("vllm") and find_spec("deepspeed")), reason="needs vllm and deepspeed"
    ),
]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run r1pipe; with engines it takes longer than the tests' own helper allows."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return subprocess.run(
        [sys.executable, "-m", "r1pipe.cli", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=3500,
        check=False,
    )


def shown(store: Path, name: str) -> dict[str, Any]:
    done = command("show", name, "--store", str(store), "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_whole_graph_runs_on_the_engines(tmp_path: Path) -> None:
    store = tmp_path / "store"
    done = command("run", "manifests/r1.yaml", "--profile", "engines", "--store", str(store))
    assert done.returncode == 0, done.stderr[-4000:]
    lines = done.stdout.splitlines()
    for model in MODELS:
        assert any(line.split()[:1] == [model] for line in lines), f"{model} is not in the table"
    for name in GRPO:
        facts = json.dumps(shown(store, name))
        assert '"parity_after_push"' in facts, "vLLM sampled, and passed the gate"
        assert '"mismatch_kl"' in facts
    from transformers import AutoModelForCausalLM

    for name in TRAINED:
        folder = store / "latest" / "r1" / "engines" / name / "model"
        assert list(folder.glob("*.safetensors"))
        if name != "helpful-rm":
            AutoModelForCausalLM.from_pretrained(folder)
    again = command("run", "manifests/r1.yaml", "--profile", "engines", "--store", str(store))
    assert again.returncode == 0
    assert "nothing" in again.stderr.lower()
