"""A plan refuses a teacher whose tokenizer is not the policy's, where both are known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny
from command import Run
from tiny import problems

from r1pipe.models.policy import load_tokenizer, new_model, save_model
from r1pipe.models.tokenizer import train_tokenizer
from r1pipe.pipeline.matching import are_alike, vocabulary

MANIFEST = """
r1pipe: 1
name: distil
sources:
  small: {path: small, as: model}
  large: {path: large, as: model}
  sums: {path: sums.jsonl, as: dataset}
stages:
  base: {kind: import-model, inputs: {source: small}}
  teacher: {kind: import-model, inputs: {source: large}}
  problems: {kind: problems, inputs: {source: sums}, params: {num_problems: 2, seed: 1}}
  policy:
    kind: online-rft
    inputs: {model: base, problems: problems}
    params: &training
      {seed: 1, format: chat, num_steps: 1, problems_per_step: 1, group_size: 2, max_tokens: 2,
       optimizer: {lr: 1e-3}}
  distil:
    kind: on-policy-distil
    inputs: {model: policy, problems: problems, teacher: teacher}
    params: *training
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a policy and a model whose tokenizer is another."""
    folder = tmp_path_factory.mktemp("models")
    tiny.save_policy(folder / "small")
    other = train_tokenizer([problem.prompt for problem in problems(8)], 300)
    sizes = {"hidden_size": 8, "num_layers": 1, "num_heads": 1, "num_kv_heads": 1}
    made = new_model(other, **sizes, intermediate_size=8, max_positions=64, init_std=0.1, seed=1)
    save_model(made, other, folder / "large")
    return folder


@pytest.fixture
def project(models: Path, tmp_path: Path) -> Path:
    for name in ("small", "large"):
        shutil.copytree(models / name, tmp_path / name)
    rows = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(4)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "m.yaml").write_text(MANIFEST)
    return tmp_path


def test_another_tokenizer_is_refused_before_anything_is_built(
    r1pipe: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    place = MANIFEST.splitlines()[19].index("teacher}") + 1
    for command in ("plan", "run"):
        code, _, err = r1pipe(command, "m.yaml", "--store", "store")
        assert code == 2
        assert f"m.yaml:20:{place}: stages.distil: inputs.teacher: its tokenizer (" in err
        assert "is another than that of inputs.model (" in err
    assert not list(Path("store").glob("actions/**/*.json"))


def test_what_is_in_the_store_is_known_too_and_a_plan_without_the_stage_goes_through(
    r1pipe: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    options = ("m.yaml", "--store", "store")
    for name in ("base", "teacher"):
        assert r1pipe("run", *options, "--to", name)[0] == 0
    shutil.rmtree("small")
    code, _, err = r1pipe("plan", *options)
    assert (code, "inputs.teacher: its tokenizer (" in err) == (2, True)
    assert r1pipe("plan", *options, "--to", "policy")[0] == 0


def test_the_same_tokenizer_and_one_that_is_not_known_are_left_to_the_stage(
    r1pipe: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    other = "--set=sources.large.path=small"
    assert r1pipe("plan", "m.yaml", "--store", "store", other)[0] == 0
    tags = "--set=stages.teacher.params.tags=own"
    assert r1pipe("plan", "m.yaml", "--store", "store", tags)[0] == 0


def test_a_vocabulary_has_as_many_tokens_as_its_tokenizer(models: Path) -> None:
    for name in ("small", "large"):
        found = vocabulary(models / name)
        assert found is not None
        assert len(found) == len(load_tokenizer(models / name))


def test_tokens_that_are_added_on_loading_count_and_other_forms_are_not_known(
    tmp_path: Path,
) -> None:
    words = {"model": {"vocab": [["a", -1.0], ["b", -2.0]]}, "added_tokens": []}
    (tmp_path / "tokenizer.json").write_text(json.dumps(words))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>"}))
    assert vocabulary(tmp_path) == {"a": 0, "b": 1, "<pad>": -1}
    (tmp_path / "tokenizer.json").write_text("{}")
    assert vocabulary(tmp_path) is None


def test_vocabularies_are_alike_by_their_number_and_most_of_their_ids() -> None:
    one = {"a": 0, "b": 1, "c": 2}
    assert are_alike(one, {"a": 0, "b": 1, "d": 2})
    assert not are_alike(one, {"a": 1, "b": 0, "c": 2})
    assert not are_alike(one, {"a": 0, "b": 1})
