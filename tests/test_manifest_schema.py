"""The schema for editors, and the examples of docs/manifests.md."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
from fake_project import make_project
from ruamel.yaml import YAML
from short_project import SHORT
from tiny import MANIFEST as R1

from r1pipe.manifest import load_manifest
from r1pipe.manifest.json_schema import manifest_schema
from r1pipe.manifest.kinds import load_kinds

DOCS = R1.parents[1] / "docs" / "manifests.md"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    make_project(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", sorted(R1.parent.rglob("*.yaml")), ids=lambda path: path.stem)
def test_the_schema_accepts_the_recipes_manifests(path: Path) -> None:
    schema = json.loads(json.dumps(manifest_schema(load_kinds(R1))))
    document = YAML(typ="safe", pure=True).load(path)
    assert list(jsonschema.Draft202012Validator(schema).iter_errors(document)) == []


def test_the_schema_knows_the_language(project: Path) -> None:
    validator = jsonschema.Draft202012Validator(
        manifest_schema(load_kinds(project / "manifests" / "small.yaml"))
    )
    document = YAML(typ="safe", pure=True).load(SHORT)
    assert list(validator.iter_errors(document)) == []
    for path, wrong in [
        (("defaults", "numbers", "params", "cuont"), 1),
        (("defaults", "nmbers"), {}),
        (("defaults", "*", "params", "sead"), 1),
        (("defaults", "numbers", "kind"), "numbers"),
        (("profiles", "tiny", "defaults", "numbers", "run"), {"count": 1}),
        (("stages", "more", "each", "a", "params", "nam"), "x"),
        (("stages", "more", "each"), {}),
        (("stages", "joined", "inputs", "extra"), "more"),
        (("targets",), "few"),
    ]:
        changed = json.loads(json.dumps(document))
        place = changed
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = wrong
        assert list(validator.iter_errors(changed)), path


def example(name: str, folder: Path) -> Path:
    """Write the example of docs/manifests.md that has this name, and return its path."""
    blocks = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (text,) = [block for block in blocks if f"name: {name}\n" in block]
    (folder / "manifests").mkdir(exist_ok=True)
    path = folder / "manifests" / f"{name}.yaml"
    path.write_text(text)
    return path


def test_the_example_of_the_docs_is_what_it_says(tmp_path: Path) -> None:
    path = example("sizes", tmp_path)
    whole = load_manifest(path)
    assert list(whole.stages)[-5:] == [
        "base-small",
        "base-large",
        "eval-small",
        "eval-large",
        "scoreboard",
    ]
    assert [whole.stages[f"eval-{each}"].key_params() for each in ("small", "large")] == [
        {"seed": 17, "format": "r1-zero", "num_samples": 4, "max_tokens": 64},
        {"seed": 17, "format": "r1-zero", "num_samples": 8, "max_tokens": 64},
    ]
    quick = load_manifest(path, profile="quick")
    assert list(quick.stages)[-2:] == ["base-small", "eval-small"]
    assert quick.stages["eval-small"].key_params()["num_samples"] == 1


def test_the_harness_of_the_docs_is_read(tmp_path: Path) -> None:
    made = load_manifest(example("harness", tmp_path))
    assert list(made.stages) == ["bench-mmlu", "bench-own", "scoreboard"]
    assert made.stages["bench-mmlu"].key_params() == {
        "tasks": ["mmlu"],
        "harness_version": "0.4.13",
        "num_fewshot": 5,
        "apply_chat_template": True,
    }


def test_the_ablation_of_the_docs_changes_one_reward(tmp_path: Path) -> None:
    ablation = load_manifest(example("no-format", tmp_path))
    assert list(ablation.stages)[-3:] == ["eval-base", "eval-zero", "scoreboard"]
    rewards = ablation.stages["zero"].key_params()["rewards"]
    assert rewards == {"accuracy": 1.0, "format": 0.0}
