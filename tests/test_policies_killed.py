"""Every curriculum, PPO, on-policy distillation and a process reward model, killed while they
train: they end with the artifact of the whole run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command import r1pipe
from killing import KILLED
from test_curricula import SOLVED
from tiny import save_policy

from r1pipe.rows import write_problems, write_rows

MANIFEST = """
r1pipe: 1
name: killed
sources:
  policy: {path: ../policy, as: model}
  teacher: {path: ../teacher, as: model}
  problems: {path: ../problems, as: problems}
  steps: {path: ../steps, as: rows}
defaults:
  "*":
    params: &small
      seed: 3
      format: chat
      num_steps: 6
      problems_per_step: 2
      group_size: 4
      minibatches_per_rollout: 2
      optimizer: {lr: 1e-2}
      rewards: {length: 1.0, overlong: 0.5}
      max_tokens: 12
  grpo: {params: {clip_low: 0.2, clip_high: 0.2, kl_coef: 0.05, reference_refresh_steps: 3}}
stages:
  dynamic:
    kind: grpo
    inputs: &given {model: policy, problems: problems}
    params: {dynamic_sampling: 3}
  adaback: {kind: grpo, inputs: *given, params: {adaback: {threshold: 0.8}}}
  r3: {kind: grpo, inputs: *given, params: {r3: {num_slices: 3}}}
  ppo: {kind: ppo, inputs: *given, params: {critic_optimizer: {lr: 1e-2}}}
  taught:
    kind: on-policy-distil
    inputs: {model: policy, problems: problems, teacher: teacher}
  step-rewards:
    kind: reward-model
    inputs: {model: policy, rows: steps}
    params:
      {objective: process, reads: completion, batch_size: 2, num_epochs: 2, max_tokens: 60}
"""
POLICIES = ("dynamic", "adaback", "r3", "ppo", "taught", "step-rewards")


def run(root: Path, store: str, *options: str, fault: str | None = None) -> Any:
    """Build in a store; a checkpoint is taken wherever one may be."""
    manifest = str(root / "manifests" / "killed.yaml")
    given = ("run", manifest, "--store", str(root / store), "--checkpoint-every", "0", *options)
    return r1pipe(*given, fault=fault)


def artifacts(root: Path, store: str) -> dict[str, str]:
    """Return the artifact of every stage that is in a store."""
    manifest = str(root / "manifests" / "killed.yaml")
    shown = r1pipe("plan", manifest, "--store", str(root / store), "--json")
    stages = json.loads(shown.stdout)["stages"]
    return {each["name"]: each["artifact"] for each in stages if each["status"] == "hit"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two tiny policies, solved problems, labelled steps and a manifest."""
    root: Path = tmp_path_factory.mktemp("project")
    save_policy(root / "policy")
    save_policy(root / "teacher", seed=2)
    write_problems(root / "problems", SOLVED)
    rows = [
        {"prompt": f"question {n}", "format": "chat", "completion": f"we add {n}\nso {n}",
         "steps": [{"end": 8, "label": float(n % 2)}, {"end": 13, "label": 1.0}]}
        for n in range(6)
    ]  # fmt: skip
    write_rows(root / "steps", rows)
    (root / "manifests").mkdir()
    (root / "manifests" / "killed.yaml").write_text(MANIFEST)
    return root


@pytest.fixture(scope="module")
def whole(root: Path) -> dict[str, str]:
    """Return the artifacts of stages that ran undisturbed."""
    done = run(root, "whole")
    assert done.returncode == 0, done.stderr[-2000:]
    return artifacts(root, "whole")


@pytest.fixture(scope="module")
def resumed(root: Path) -> tuple[dict[str, str], str]:
    """Kill every stage, then have all of them go on; return the artifacts, and what was said."""
    for name in POLICIES:
        killed = run(root, "killed", "--to", name, fault="checkpoint.write@2")
        assert killed.returncode == KILLED, killed.stderr[-2000:]
    done = run(root, "killed")
    assert done.returncode == 0, done.stderr[-2000:]
    return artifacts(root, "killed"), done.stderr


@pytest.mark.parametrize("name", POLICIES)
def test_a_killed_policy_goes_on_and_ends_with_the_same_artifact(
    whole: dict[str, str], resumed: tuple[dict[str, str], str], name: str
) -> None:
    found, said = resumed
    assert said.count("resumes") >= len(POLICIES), "each went on from its first checkpoint"
    assert found[name] == whole[name]


def test_every_stage_of_the_manifest_is_killed_and_all_end_differently(
    whole: dict[str, str],
) -> None:
    assert set(whole) == set(POLICIES)
    assert len(set(whole.values())) == len(POLICIES)
