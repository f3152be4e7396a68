"""Methods: the page names what is there, and every manifest runs at smoke sizes from one base."""

from __future__ import annotations

import ast
import json
import random
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from command import ROOT, Run

from r1pipe.chat import render_completion
from r1pipe.manifest import load_manifest
from r1pipe.method_params.policies import OnlineRftParams
from r1pipe.models.programs import outputs_of, program_of
from r1pipe.records import Verdict
from r1pipe.settings import Tools
from r1pipe.tasks.world import Noise
from r1pipe.verify.checkers import CHECKERS

PAGE = (ROOT / "docs" / "methods.md").read_text()
MANIFESTS = sorted((ROOT / "manifests" / "methods").glob("*.yaml"))


def names_in(path: Path) -> set[str]:
    """Return the classes, functions and constants at the top of a module."""
    found = set[str]()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def test_every_name_is_in_the_file_that_the_page_says() -> None:
    places = re.findall(r"((?:`\w+`(?:,| and|) ?)+) in\s+`(r1pipe/[\w/]+\.py)`", PAGE)
    assert len(places) >= 15
    for names, path in places:
        missing = set(re.findall(r"`(\w+)`", names)) - names_in(ROOT / path)
        assert not missing, f"{path} has no {missing}"


def test_the_page_and_the_folder_have_the_same_manifests() -> None:
    named = set(re.findall(r"[\w-]+\.yaml", PAGE)) - {"config.yaml"}  # GRPO-Zero's own
    assert named == {path.name for path in MANIFESTS}


def test_the_fields_of_the_page_are_those_of_the_manifests() -> None:
    checked = 0
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.replace("\\|", "/").strip("|").split("|")]
        if len(cells) != 6 or not cells[5].endswith(".yaml"):
            continue
        name = cells[5].split(",")[0].removesuffix(".yaml")
        node = load_manifest(ROOT / "manifests" / "methods" / f"{name}.yaml").stages[name]
        params = node.params.as_grpo() if isinstance(node.params, OnlineRftParams) else node.params
        values = params.model_dump()
        for field, value in re.findall(r"`(\w+): ([\w.-]+)`", cells[4].split(" or ")[0]):
            assert str(values[field]) == value, f"{name}: {field}"
            checked += 1
    assert checked >= 15


@pytest.mark.parametrize("name", ["sft", "rft", "online-rft", "grpo", "process"])
def test_a_manifest_weighs_tokens_as_deepseekmath_does(name: str) -> None:
    # 1/|o| in front of the sum over a completion: Eq. 7, 9, 11 and 21
    stages = load_manifest(ROOT / "manifests" / "methods" / f"{name}.yaml").stages
    assert stages[name].params.model_dump()["aggregation"] == "sequence-mean"


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_manifest_of_a_method_is_short_and_has_a_smoke_profile(path: Path) -> None:
    manifest = load_manifest(path, profile="smoke")
    assert manifest.stages
    for node in manifest.stages.values():
        if node.kind.kind in ("grpo", "online-rft"):
            assert node.params.model_dump()["num_steps"] <= 4, f"{path.name}: {node.name}"


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_manifest_of_a_method_plans_at_its_full_size(
    path: Path, tmp_path: Path, r1pipe: Run
) -> None:
    code, out, err = r1pipe("plan", str(path), "--store", str(tmp_path / "store"), "--json")
    assert code == 0, err
    planned = {each["name"]: each["status"] for each in json.loads(out)["stages"]}
    assert set(planned) == set(load_manifest(path).stages)
    assert set(planned.values()) <= {"run", "waits"}


def test_solutions_that_are_programs_print_what_stands_below_them() -> None:
    task = runpy.run_path(str(ROOT / "manifests" / "methods" / "programs_task.py"))["TASKS"]
    rng, seen = random.Random(1), set[bool]()
    for number in range(12):
        problem = task["programs"].make(rng, "en", 1 + number % 3)
        solution = task["programs"].solve(problem, rng, Noise(wrong_step=0.5))
        text = render_completion(solution.thought, solution.answer, "chat", solution.summary)
        ran = [sys.executable, "-c", program_of(text) or ""]
        printed = subprocess.run(ran, capture_output=True, text=True, check=True).stdout.strip()
        spans = outputs_of(text, Tools(max_rounds=1))
        assert [text[start:end] for start, end in spans] == [f"\n```output\n{printed}\n```\n"]
        is_right = CHECKERS[problem.checker](problem, text) is Verdict.CORRECT
        assert is_right == (printed == problem.gold)
        seen.add(is_right)
    assert seen == {True, False}, "the author makes mistakes, and not only mistakes"


# ---- every method of the kinds grpo and online-rft, from one base --------------------------------

SEVERAL = (
    "chain",
    "dpo",
    "iterative-grpo",
    "process-model",
    "process-rm",
    "programs",
    "rft",
    "sft",
)
"""They have stages beside the base that need right completions, or a base of their own."""
TRAINED = {path.stem: path for path in MANIFESTS if path.stem not in ("base", *SEVERAL)}
"""Their stage has their name, and there is only the base before it."""
SMALL = (
    "stages.corpus.params.num_rows=300",
    "stages.base.params.architecture.hidden_size=16",
    "stages.base.params.architecture.num_heads=2",
    "stages.base.params.architecture.intermediate_size=32",
)
UPDATES = {"gspo": 4, "cispo": 4, "online-rft": 4, "on-policy-distil": 2}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store that all of them share: problems, tokenizer and base are made once."""
    return tmp_path_factory.mktemp("methods") / "store"


@pytest.mark.parametrize("name", sorted(TRAINED))
def test_a_method_runs_from_the_shared_base(r1pipe: Run, store: Path, name: str) -> None:
    updates = UPDATES.get(name, 2)
    sets = [f"stages.{name}.params.num_steps={updates}", *SMALL]
    given = [part for each in sets for part in ("--set", each)]
    code, out, err = r1pipe(
        *("run", str(TRAINED[name]), "--profile", "smoke", "--to", name, "--store", str(store)),
        *given,
    )
    assert code == 0, (out + err)[-2000:]
    folder = store / "latest" / name / "smoke" / name / "model"
    assert (folder / "model.safetensors").exists()


# ---- those that need right completions, with the base of the profile, and some others ------------

EVALUATED = ("on-policy-distil", "ppo")
"""Of those above: they go on to their evaluations and the scoreboard."""


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store in which they share their base."""
    return tmp_path_factory.mktemp("learned")


@pytest.mark.parametrize("name", [*SEVERAL, *EVALUATED])
def test_a_manifest_of_a_method_runs_whole(learned: Path, name: str, r1pipe: Run) -> None:
    path = ROOT / "manifests" / "methods" / f"{name}.yaml"
    given = ("run", str(path), "--profile", "smoke", "--store", str(learned))
    code, out, err = r1pipe(*given)
    assert code == 0, (out + err)[-2000:]
    stages = load_manifest(path, profile="smoke").stages
    assert f"nothing to do: all {len(stages)} stages are in the store" in r1pipe(*given)[2]
