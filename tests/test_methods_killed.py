"""The stages of methods killed while they run: they end with the artifact of the whole run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from forked_commands import forked
from killing import KILLED
from test_dpo import rows
from test_select_corpus import world
from tiny import problems, save_policy

from r1pipe.rows import write_problems, write_rows

MANIFEST = """
r1pipe: 1
name: killed
sources:
  policy: {path: ../policy, as: model}
  pairs: {path: ../pairs, as: rows}
  candidates: {path: ../candidates, as: rows}
  problems: {path: ../problems, as: problems}
  texts: {path: ../texts, as: rows}
  pages: {path: ../pages, as: rows}
stages:
  dpo:
    kind: dpo
    inputs: {model: policy, rows: pairs}
    params: {seed: 1, num_epochs: 2, batch_size: 4, max_tokens: 100, optimizer: {lr: 1e-3}}
    run: {pairs_per_unit: 4}
  labels:
    kind: process-labels
    inputs: {candidates: candidates, problems: problems, model: policy}
    params: {seed: 1, num_continuations: 2, max_tokens: 6, candidates_per_unit: 1}
  corpus:
    kind: select-corpus
    inputs: {seed: texts, documents: pages}
    params: {seed: 1, collected_frac: 0.2, hash_bits: 14}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny policy, pairs, candidates, documents and a manifest."""
    root = tmp_path_factory.mktemp("project")
    save_policy(root / "policy")
    write_rows(root / "pairs", rows(12))
    some = problems(3)
    write_problems(root / "problems", some)
    write_rows(root / "candidates", [
        {"id": f"{p.id}#0", "problem_id": p.id, "task": p.task, "language": p.language,
         "format": "chat", "prompt": p.prompt, "gold": p.gold, "completion": f"{p.gold}\nso\nit is",
         "verdict": "wrong", "finish_reason": "stop"}
        for p in some
    ])  # fmt: skip
    seed, pages = world()
    write_rows(root / "texts", seed)
    write_rows(root / "pages", pages)
    (root / "manifests").mkdir()
    (root / "manifests" / "killed.yaml").write_text(MANIFEST)
    return root


FAULTS = {
    # in the second unit of the reference, and before step 2 is saved
    "dpo": ("journal.append@2", "checkpoint.write@3"),
    "labels": ("journal.append@2",),
    "corpus": ("publish.start",),  # its files are there, and are written anew
}


@pytest.fixture(scope="module")
def artifacts(project: Path) -> dict[str, dict[str, str]]:
    """Build every stage undisturbed; elsewhere kill each, have it go on. Return store -> stage ->
    artifact. A checkpoint is taken after every step."""
    manifest = str(project / "manifests" / "killed.yaml")
    run = ["run", manifest, "--checkpoint-every", "0", "--store"]
    commands, codes = [("", [*run, str(project / "whole")])], [0]
    for stage, faults in FAULTS.items():
        for fault in (*faults, ""):
            commands.append((fault, [*run, str(project / "killed"), "--to", stage]))
            codes.append(KILLED if fault else 0)
    for store in ("whole", "killed"):
        commands.append(("", ["plan", manifest, "--json", "--store", str(project / store)]))
        codes.append(0)
    ended = forked(commands)
    for (fault, command), (code, said), wanted in zip(commands, ended, codes, strict=True):
        assert code == wanted, f"{command} with {fault!r}: {said[-2000:]}"
    return {"whole": artifacts_of(ended[-2].said), "killed": artifacts_of(ended[-1].said)}


def artifacts_of(planned: str) -> dict[str, str]:
    """Return the artifact of every stage, all of which are there."""
    stages: list[dict[str, Any]] = json.loads(planned[planned.index("{") :])["stages"]
    assert {each["status"] for each in stages} == {"hit"}
    return {each["name"]: str(each["artifact"]) for each in stages}


@pytest.mark.parametrize("stage", FAULTS)
def test_a_killed_stage_goes_on_and_ends_with_the_same_artifact(
    artifacts: dict[str, dict[str, str]], stage: str
) -> None:
    assert artifacts["killed"][stage] == artifacts["whole"][stage]
