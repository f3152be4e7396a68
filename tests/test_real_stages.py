"""Real stages of the recipe, killed and resumed, and a model brought in from outside."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from command import r1pipe

SMALL = (
    "--profile=smoke",
    "--set=stages.corpus.params.num_rows=6000",
    "--set=stages.cold-start-sft.params.num_epochs=5",
    "--set=stages.rejection-sample.inputs.model=zero",
    "--set=stages.rejection-sample.params.format=r1-zero",
    "--set=stages.rejection-sample.params.problems_per_unit=8",
)


def artifact_of(stage: str, store: Path) -> str:
    """Return the artifact id of a stage."""
    done = r1pipe("plan", "manifests/r1.yaml", *SMALL, f"--store={store}", "--json")
    assert done.returncode == 0, done.stderr
    found = {s["name"]: s for s in json.loads(done.stdout)["stages"]}
    assert found[stage]["status"] == "hit"
    return str(found[stage]["artifact"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store that holds everything up to cold-start data and problems."""
    store = tmp_path_factory.mktemp("trained") / "store"
    done = r1pipe("run", "manifests/r1.yaml", *SMALL, f"--store={store}", "--to=cold-start-data")
    assert done.returncode == 0, done.stderr[-3000:]
    return store


@pytest.mark.parametrize(
    ("stage", "fault"),
    [("cold-start-sft", "checkpoint.write@4"), ("rejection-sample", "journal.append@3")],
)
def test_a_killed_stage_resumes_to_the_uninterrupted_artifact(
    trained: Path, tmp_path: Path, stage: str, fault: str
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    shutil.copytree(trained, one, symlinks=True)
    shutil.copytree(trained, other, symlinks=True)
    command = ("stage", stage, *SMALL, "--checkpoint-every=0")
    whole = r1pipe(*command, f"--store={one}")
    killed = r1pipe(*command, f"--store={other}", fault=fault)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    resumed = r1pipe("stage", stage, *SMALL, "--resume", f"--store={other}")
    assert whole.returncode == resumed.returncode == 0, whole.stderr + resumed.stderr
    assert "resumes" in resumed.stderr
    assert artifact_of(stage, one) == artifact_of(stage, other)


def test_a_model_from_outside_becomes_a_base_with_the_recipe_s_tags(
    trained: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from r1pipe.store.store import Store

    outside = tmp_path / "outside"
    base = trained / "latest" / "r1" / "smoke" / "base" / "model"
    shutil.copytree(base, outside, copy_function=shutil.copyfile)
    os.chmod(outside, 0o755)
    manifest = tmp_path / "manifests" / "import.yaml"
    manifest.parent.mkdir()
    manifest.write_text(
        "r1pipe: 1\nname: import\n"
        f"sources: {{there: {{path: {outside}, as: model}}}}\n"
        "stages: {base: {kind: import-model, inputs: {source: there}}}\n"
    )
    done = r1pipe("run", str(manifest), f"--store={tmp_path / 'store'}")
    assert done.returncode == 0, done.stderr
    (record,) = Store(tmp_path / "store").records()
    folder = Store(tmp_path / "store").output_dir(record, "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer("<think></think>")["input_ids"]) == 2
    assert tokenizer.decode([tokenizer.eos_token_id]) == "<|end|>"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.get_input_embeddings().num_embeddings >= len(tokenizer)
