"""Canonical JSON, golden keys, and what may and may not change a key."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from fake_project import MANIFEST, make_project, write_manifest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field

from r1pipe.keys import FileEntry, artifact_id, canonical_json, digest_json, key_of, key_preimage
from r1pipe.manifest import Manifest, Ref, load_manifest
from r1pipe.manifest.nodes import params_without_defaults
from r1pipe.stage import StageModel

PROJECT_ONCE = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=10,
)

# blake3 of {"inputs":{"model":"aa...a"},"kind":"sft","params":{"epochs":2,"lr":5e-05},"version":1}
GOLDEN_KEY = "15766f2f1e0fa8408cced4b7f66bea1ccddc1fde0f27ab9e1bfa353c82fab56f"
# blake3 of [["a/b.txt",3,"11...1"],["c.txt",0,"22...2"]]
GOLDEN_ARTIFACT = "c500f7bf9430aa5ef99444177dd9b8733c54a4f96ca8461f30812e84fe0054fe"


def keys(manifest: Manifest) -> dict[str, str]:
    """Return each stage's key; an input's id is the key of what it reads, or the source's name."""
    found: dict[str, str] = {}

    def read(ref: Ref) -> str:
        return f"source {ref.name}" if ref.is_source else f"{found[ref.name]}.{ref.output}"

    for name, node in manifest.stages.items():
        inputs: dict[str, Any] = {}
        for label, given_ref in node.inputs.items():
            if isinstance(given_ref, Mapping):
                inputs[label] = {each: read(ref) for each, ref in given_ref.items()}
            else:
                inputs[label] = read(given_ref)
        preimage = key_preimage(node.kind.kind, node.kind.version, node.key_params(), inputs)
        found[name] = key_of(preimage)
    return found


def test_canonical_json_is_pinned() -> None:
    value = {"b": [1, 2.0, 0.5, True, None], "a": "\u00e9\n", "c": {"z": 1e-6, "y": 1e22}}
    expected = (
        '{"a":"\u00e9\\n","b":[1,2,0.5,true,null],"c":{"y":10000000000000000000000,"z":1e-06}}'
    )
    assert canonical_json(value) == expected.encode()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_have_no_canonical_json(value: float) -> None:
    with pytest.raises(ValueError, match="Out of range float values"):
        canonical_json([value])


def test_bytes_have_no_canonical_json() -> None:
    with pytest.raises(TypeError, match="bytes has no canonical JSON"):
        canonical_json({"a": b"x"})


@given(JSON)
def test_canonical_json_reads_back_as_the_same_value(value: Any) -> None:
    assert json.loads(canonical_json(value)) == value


@given(JSON)
def test_the_order_of_a_mapping_does_not_change_its_digest(value: Any) -> None:
    def turned(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: turned(item[key]) for key in reversed(item)}
        return [turned(each) for each in item] if isinstance(item, list) else item

    assert digest_json(value) == digest_json(turned(value))


def test_a_key_is_pinned() -> None:
    """Golden: a change here makes every store of every user worthless."""
    preimage = key_preimage("sft", 1, {"lr": 5e-5, "epochs": 2}, {"model": "a" * 64})
    assert preimage == {
        "kind": "sft",
        "version": 1,
        "params": {"lr": 5e-5, "epochs": 2},
        "inputs": {"model": "a" * 64},
    }
    assert key_of(preimage) == GOLDEN_KEY


def test_an_artifact_id_is_pinned_and_ignores_the_order_of_its_files() -> None:
    one, two = FileEntry("a/b.txt", 3, "1" * 64), FileEntry("c.txt", 0, "2" * 64)
    assert artifact_id([one, two]) == artifact_id([two, one]) == GOLDEN_ARTIFACT
    moved = FileEntry("a/c.txt", 3, "1" * 64)
    assert artifact_id([moved, two]) != GOLDEN_ARTIFACT


class Inner(StageModel):
    x: int = 1
    y: float = 0.5


class Left(StageModel):
    side: Literal["left"] = "left"
    width: int = 1


class Right(StageModel):
    side: Literal["right"] = "right"
    width: int = 1


class Everything(StageModel):
    needed: int
    inner: Inner = Inner(x=2)
    inners: tuple[Inner, ...] = ()
    table: dict[str, Inner] = Field(default_factory=dict)
    names: frozenset[str] = frozenset()
    flag: bool | int = 0
    either: Annotated[Left | Right, Field(discriminator="side")] = Left()


def stripped(text: str) -> dict[str, Any]:
    return params_without_defaults(Everything.model_validate_json(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"needed": 0}', {"needed": 0}),
        ('{"needed": 0, "inner": {"x": 2}}', {"needed": 0}),
        ('{"needed": 0, "inner": {"x": 1}}', {"needed": 0, "inner": {}}),
        ('{"needed": 0, "inner": {"y": 2}}', {"needed": 0, "inner": {"y": 2}}),
        ('{"needed": 0, "inners": [{"x": 1}, {"x": 3}]}', {"needed": 0, "inners": [{}, {"x": 3}]}),
        ('{"needed": 0, "table": {"a": {"y": 1}}}', {"needed": 0, "table": {"a": {"y": 1}}}),
        ('{"needed": 0, "names": ["b", "a"]}', {"needed": 0, "names": ["a", "b"]}),
        ('{"needed": 0, "flag": false}', {"needed": 0, "flag": False}),
        ('{"needed": 0, "either": {"side": "left"}}', {"needed": 0}),
        ('{"needed": 0, "either": {"side": "right"}}', {"needed": 0, "either": {"side": "right"}}),
    ],
)
def test_only_what_differs_from_its_default_is_in_a_key(text: str, expected: Any) -> None:
    assert canonical_json(stripped(text)) == canonical_json(expected)


def test_a_new_field_with_a_default_keeps_old_keys() -> None:
    class Before(StageModel):
        lr: float
        inner: Inner = Inner()

    class WiderInner(Inner):
        z: str = "new"

    class After(StageModel):
        lr: float
        inner: WiderInner = WiderInner()
        added: int | None = None

    text = '{"lr": 1, "inner": {"x": 7}}'
    before = params_without_defaults(Before.model_validate_json(text))
    assert params_without_defaults(After.model_validate_json(text)) == before


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    make_project(root)
    return root


@pytest.fixture(scope="module")
def plain_keys(project: Path) -> dict[str, str]:
    return keys(load_manifest(project / "manifests" / "small.yaml"))


def as_yaml(value: Any, rng: random.Random, indent: int) -> str:
    """Write a mapping in a random order, style and indentation, with comments."""
    items = list(value.items())
    rng.shuffle(items)
    step = rng.randint(1, 5)
    lines = []
    for name, item in items:
        if rng.random() < 0.3:
            lines.append(" " * rng.randint(0, 9) + f"# about {name}")
        key = rng.choice([name, f"'{name}'", f'"{name}"'])
        comment = rng.choice(["", "  # why: not"])
        if isinstance(item, dict) and item and rng.random() < 0.6:
            lines += [" " * indent + f"{key}:{comment}", as_yaml(item, rng, indent + step)]
        else:
            lines.append(" " * indent + f"{key}: {json.dumps(item)}{comment}")
    return "\n".join(lines)


@PROJECT_ONCE
@given(st.integers())
def test_order_indentation_quotes_and_comments_keep_every_key(
    project: Path, plain_keys: dict[str, str], seed: int
) -> None:
    from ruamel.yaml import YAML

    document = YAML(typ="safe", pure=True).load(MANIFEST)
    document["profiles"]["gpu"]["stages"]["numbers"]["params"]["rate"] = 1e-6
    path = write_manifest(project, as_yaml(document, random.Random(seed), 0) + "\n", "turned")
    assert keys(load_manifest(path)) == plain_keys


CHANGES = {
    "numbers.params.count": st.integers().filter(lambda n: n != 5),
    "numbers.params.rate": st.floats(allow_nan=False, allow_infinity=False).filter(
        lambda x: x != 0.5
    ),
    "numbers.params.seed": st.integers().filter(lambda n: n != 3),
    "joined.params.keep.verdict": st.just("wrong"),
    "joined.params.keep.max_chars": st.integers().filter(lambda n: n != 7),
    "joined.params.levels": st.lists(st.integers()).filter(lambda x: x != [3, 4]),
    "joined.params.weights.a": st.floats(allow_nan=False, allow_infinity=False),
    "joined.params.name": st.text(st.characters(categories=["L", "N"]), min_size=1),
    "joined.params.is_strict": st.just(True),
}


@PROJECT_ONCE
@given(st.data(), st.sampled_from(sorted(CHANGES)))
def test_changing_any_parameter_changes_the_key_of_its_stage_and_of_those_below(
    project: Path, plain_keys: dict[str, str], data: st.DataObject, path: str
) -> None:
    value = json.dumps(data.draw(CHANGES[path]))
    changed = keys(
        load_manifest(project / "manifests" / "small.yaml", overrides=[f"stages.{path}={value}"])
    )
    below = {"numbers": ["numbers", "joined", "scores"], "joined": ["joined", "scores"]}
    differing = [name for name in plain_keys if changed[name] != plain_keys[name]]
    assert differing == below[path.partition(".")[0]]


@PROJECT_ONCE
@given(st.sampled_from(["numbers", "joined"]), st.integers())
def test_changing_a_run_field_keeps_every_key(
    project: Path, plain_keys: dict[str, str], stage: str, workers: int
) -> None:
    manifest = load_manifest(
        project / "manifests" / "small.yaml", overrides=[f"stages.{stage}.run.workers={workers}"]
    )
    run: Any = manifest.stages[stage].run
    assert run.workers == workers
    assert keys(manifest) == plain_keys


def test_renaming_stages_and_moving_the_project_keep_every_key(
    project: Path, plain_keys: dict[str, str], tmp_path: Path
) -> None:
    make_project(tmp_path)
    text = MANIFEST.replace("numbers:", "first:").replace("numbers.rows", "first.rows")
    path = write_manifest(tmp_path, text.replace("joined", "second"), "renamed")
    renamed = keys(load_manifest(path))
    assert list(renamed) == ["first", "second", "scores"]
    assert list(renamed.values()) == list(plain_keys.values())


def test_a_whole_number_in_a_float_field_is_the_same_key(project: Path) -> None:
    path = project / "manifests" / "small.yaml"
    one = keys(load_manifest(path, overrides=["stages.numbers.params.rate=1"]))
    assert one == keys(load_manifest(path, overrides=["stages.numbers.params.rate=1.0"]))
