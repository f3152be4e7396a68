"""`r1pipe init`: a project that plans as soon as its files are there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
from command import Run


def test_a_new_project_plans_with_a_model_and_problems_of_ones_own(
    tmp_path: Path, r1pipe: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("R1PIPE_STORE", raising=False)
    code, out, _ = r1pipe("init", "my project")
    assert code == 0
    assert out.endswith("then: cd 'my project' && r1pipe plan manifests/own.yaml\n")
    project = tmp_path / "my project"
    monkeypatch.chdir(project)
    document = json.loads(r1pipe("plan", "manifests/own.yaml", "--json")[1])
    base = next(stage for stage in document["stages"] if stage["name"] == "base")
    assert "sources.model.path=PATH" in base["reason"]
    tiny.save_policy(project / "data" / "model")
    for name in ("train", "test"):
        rows = [{"question": f"{name} {n} + 1?", "answer": str(n + 1)} for n in range(8)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (project / "data" / f"{name}.jsonl").write_text(lines)
    code, out, _ = r1pipe("plan", "manifests/own.yaml", "--json")
    assert code == 0
    stages = {stage["name"]: stage["reason"] for stage in json.loads(out)["stages"]}
    assert stages["base"] == stages["held-out"] == "not in the store yet"


def test_without_a_name_the_only_manifest_of_a_project_is_meant(
    tmp_path: Path, r1pipe: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("R1PIPE_STORE", raising=False)

    def planned() -> str:
        code, out, _ = r1pipe("plan", "--json")
        assert code == 0
        return str(json.loads(out)["manifest"])

    assert planned() == "r1", "no folder of manifests"
    assert r1pipe("init")[0] == 0
    assert planned() == "own"
    second = tmp_path / "manifests" / "second.yml"
    second.write_text((tmp_path / "manifests" / "own.yaml").read_text())
    several = (
        "manifests/ has several manifests (own.yaml, second.yml); say which one: manifests/own"
    )
    for command in (["run"], ["plan"], ["why", "rl"], ["try", "rl"], ["lock"], ["stage", "rl"]):
        code, _, err = r1pipe(*command)
        assert (code, err) == (2, f"{several}.yaml\n"), "none of two is meant more than the other"
    for command in (["show"], ["schema"], ["run", "--help"], ["fsck"]):
        assert r1pipe(*command)[0] == 0, "these need no manifest"
    assert json.loads(r1pipe("plan", "manifests/second.yml", "--json")[1])["manifest"] == "own"
    recipe = tmp_path / "manifests" / "r1.yaml"
    recipe.write_text((tmp_path / "manifests" / "own.yaml").read_text())
    assert planned() == "own", "the recipe of the project"
    recipe.unlink()
    second.unlink()
    (tmp_path / "manifests" / "own.lock").touch()
    assert planned() == "own", "a lock is no manifest"


def test_a_manifest_that_is_there_stays(
    tmp_path: Path, r1pipe: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert r1pipe("init")[0] == 0
    (tmp_path / "manifests" / "own.yaml").write_text("mine")
    code, _, err = r1pipe("init")
    assert code == 3
    assert err.startswith("manifests/own.yaml exists; name a new folder")
    assert (tmp_path / "manifests" / "own.yaml").read_text() == "mine"
