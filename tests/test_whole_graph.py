"""The whole recipe at smoke sizes, as a user runs it: in a process of its own."""

from __future__ import annotations

import json
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from command import ROOT, r1pipe

from r1pipe.pipeline.lock import read_lock

GSM8K = ROOT.parent / "shared" / "data" / "gsm8k"
MODELS = {
    "base": "base",
    "zero": "zero",
    "dev1": "cold-start-sft",
    "dev2": "reasoning-rl",
    "dev3": "second-sft",
    "r1": "alignment-rl",
    "student-base": "student-base",
    "student-rl": "student-rl",
    "r1-distill": "distil",
}
LOCKS = sorted((ROOT / "manifests").glob("r1-smoke*.lock"))
# docs/engines.md: from 5.23 on transformers computes the attention of one token otherwise
SAME_ARITHMETIC = tuple(map(int, version("transformers").split(".")[:2])) < (5, 23)
DATA = {
    "held-out", "held-out-general", "held-out-safety", "problems", "general-problems",
    "general-rows", "helpful-pairs", "safety-labels", "corpus", "tokenizer",
}  # fmt: skip


def artifact_ids(store: Path) -> dict[str, str]:
    """Return every stage's artifact id."""
    shown = r1pipe(
        "plan", "manifests/r1.yaml", "--profile", "smoke", "--store", str(store), "--json"
    )
    assert shown.returncode == 0, shown.stderr
    stages = json.loads(shown.stdout)["stages"]
    assert {stage["status"] for stage in stages} == {"hit"}
    return {stage["name"]: stage["artifact"] for stage in stages}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run the smoke profile once; return its store and what was printed."""
    store = tmp_path_factory.mktemp("smoke") / "store"
    done = r1pipe("run", "manifests/r1.yaml", "--profile", "smoke", "--store", str(store))
    assert done.returncode == 0, done.stderr[-3000:]
    return store, done.stdout


def test_the_smoke_run_ends_with_a_scoreboard_of_every_model(smoke: tuple[Path, str]) -> None:
    printed = smoke[1]
    lines = printed.splitlines()
    for model in MODELS:
        assert any(line.split()[:1] == [model] for line in lines), f"{model} is not in the table"
    assert "What each stage bought" in printed


def test_every_model_is_a_directory_that_transformers_loads(smoke: tuple[Path, str]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    for stage in MODELS.values():
        folder = smoke[0] / "latest" / "r1" / "smoke" / stage / "model"
        model = AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": "5+3"}], add_generation_prompt=True, return_tensors="pt"
        )["input_ids"]
        assert model.generate(ids, max_new_tokens=3, do_sample=False).shape[1] > ids.shape[1]
        assert GenerationConfig.from_pretrained(folder).eos_token_id == [tokenizer.eos_token_id]
        assert not list(folder.glob("*.bin")), "weights are safetensors"


def test_a_second_run_does_nothing_and_says_so(smoke: tuple[Path, str]) -> None:
    before = artifact_ids(smoke[0])
    started = time.time()
    again = r1pipe("run", "manifests/r1.yaml", "--profile", "smoke", "--store", str(smoke[0]))
    assert again.returncode == 0
    assert "nothing" in again.stderr.lower()
    records = (smoke[0]).rglob("*.json")
    written = [p for p in records if "actions" in p.parts and p.stat().st_mtime > started]
    assert not written, "a second run wrote action records"
    assert artifact_ids(smoke[0]) == before


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_the_run_is_that_of_each_lock_of_the_repository(
    smoke: tuple[Path, str], path: Path
) -> None:
    lock = read_lock(path)
    done = r1pipe("reproduce", str(path), "--store", str(smoke[0]), "--json")
    found = json.loads(done.stdout)
    assert len(found["same"]) + len(found["differing"]) == len(found["artifacts"]) == 34
    if lock.is_of_here and SAME_ARITHMETIC:
        assert found["differing"] == [], "the same processor gives the same bytes"
    assert set(found["same"]) >= DATA, "no arithmetic of a processor is in them"
    scores = [score for score in found["scores"] if not score["trivial"]]
    assert [score for score in scores if not score["agrees"]] == []
    if found["differing"]:
        fitting = [str(each) for each in LOCKS if read_lock(each).is_of_here]
        assert found["fitting_lock"] == (None if lock.is_of_here else next(iter(fitting), None))
        compared = {score["stage"] for score in scores}
        assert {"eval-base", "eval-zero", "eval-r1"} <= compared, "they solve some problems"
    assert found["holds"]
    assert done.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(
    SAME_ARITHMETIC and any(read_lock(path).is_of_here for path in LOCKS),
    reason="a lock of this processor is of another store, and is compared with above",
)
def test_two_fresh_stores_hold_the_same_artifacts(smoke: tuple[Path, str], tmp_path: Path) -> None:
    other = tmp_path / "store"
    done = r1pipe("run", "manifests/r1.yaml", "--profile", "smoke", "--store", str(other))
    assert done.returncode == 0, done.stderr[-3000:]
    assert artifact_ids(other) == artifact_ids(smoke[0])


@pytest.mark.skipif(not GSM8K.is_dir(), reason="the GSM8K files are not beside the repository")
def test_the_graph_runs_on_gsm8k_from_local_files(tmp_path: Path) -> None:
    done = r1pipe(
        "run",
        "manifests/gsm8k.yaml",
        "--store",
        str(tmp_path / "store"),
        "--set",
        f"sources.gsm8k-train.path={GSM8K / 'train.jsonl'}",
        "--set",
        f"sources.gsm8k-test.path={GSM8K / 'test.jsonl'}",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "r1-distill" in done.stdout
