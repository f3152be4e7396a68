"""Every curriculum, PPO, on-policy distillation and a process reward model, killed while they
train: they end with the artifact of the whole run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from forked_commands import Ended, forked
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


def run(root: Path, store: str, *options: str) -> list[str]:
    """Return the command that builds in a store; a checkpoint is taken wherever one may be."""
    manifest = str(root / "manifests" / "killed.yaml")
    return ["run", manifest, "--store", str(root / store), "--checkpoint-every", "0", *options]


def plan(root: Path, store: str) -> list[str]:
    """Return the command that says what is in a store."""
    manifest = str(root / "manifests" / "killed.yaml")
    return ["plan", manifest, "--store", str(root / store), "--json"]


def artifacts(planned: str) -> dict[str, str]:
    """Return the artifact of every stage that is in a store."""
    stages = json.loads(planned[planned.index("{") :])["stages"]
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
def ended(root: Path) -> list[Ended]:
    """Build all stages undisturbed; elsewhere kill each, then have all of them go on."""
    undisturbed = [("", run(root, "whole")), ("", plan(root, "whole"))]
    kills = [("checkpoint.write@2", run(root, "killed", "--to", name)) for name in POLICIES]
    after = [("", run(root, "killed")), ("", plan(root, "killed"))]
    found = forked([*undisturbed, *kills, *after])
    codes = [0, 0, *[KILLED] * len(POLICIES), 0, 0]
    for (code, said), wanted in zip(found, codes, strict=True):
        assert code == wanted, said[-2000:]
    return found


@pytest.fixture(scope="module")
def whole(ended: list[Ended]) -> dict[str, str]:
    """Return the artifacts of stages that ran undisturbed."""
    return artifacts(ended[1].said)


@pytest.mark.parametrize("name", POLICIES)
def test_a_killed_policy_goes_on_and_ends_with_the_same_artifact(
    ended: list[Ended], whole: dict[str, str], name: str
) -> None:
    assert ended[-2].said.count("resumes") >= len(POLICIES), "each went on from a checkpoint"
    assert artifacts(ended[-1].said)[name] == whole[name]


def test_every_stage_of_the_manifest_is_killed_and_all_end_differently(
    whole: dict[str, str],
) -> None:
    assert set(whole) == set(POLICIES)
    assert len(set(whole.values())) == len(POLICIES)
