"""Whatever is written into a manifest or an override, the answer is a manifest or a message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_project import MANIFEST, make_project, write_manifest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from short_project import SHORT

from r1pipe.errors import ManifestError
from r1pipe.manifest import load_manifest

FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(
        ["numbers", "joined.rows", "more.*.rows", "$params.seed", "$params.", "", ".", "a.b.c"]
    )
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["kind", "params", "count", "a", "as", "each", "*", "numbers", ""]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fuzz")
    make_project(root)
    return root


def answers(path: Path, **options: Any) -> None:
    """Load a manifest; anything but a manifest or a ManifestError with lines fails the test."""
    lines = []
    try:
        load_manifest(path, **options)
    except ManifestError as error:
        lines = str(error).splitlines() or ["nothing said"]
    starts = (str(path), "--set", "--profile")
    assert [line for line in lines if not line.startswith(starts)] == []


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if not isinstance(value, dict | list):
        return [path]
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    return [path, *(each for key, item in entries for each in places(item, (*path, key)))]


DOCUMENTS = [YAML(typ="safe", pure=True).load(text) for text in (MANIFEST, SHORT)]
PLACES = [(number, path) for number in (0, 1) for path in places(DOCUMENTS[number]) if path]


@FUZZ
@given(st.sampled_from(PLACES), ANYTHING)
@example((0, ("stages", "numbers", "kind")), {"a": 1})
@example((0, ("stages", "joined", "inputs", "extra")), {"a": None})
@example((0, ("profiles", "gpu", "extends")), ["laptop"])
@example((0, ("profile",)), {"a": 1})
@example((0, ("params",)), "$params.seed")
@example((0, ("extends",)), "small.yaml")
@example((1, ("defaults",)), "$params.seed")
@example((1, ("defaults", "numbers")), {"inputs": None, "params": [1], "run": {"workers": None}})
@example((1, ("defaults", "*", "inputs")), {"rows": None})
@example((1, ("stages", "more", "each")), {"a": None, "b": 3, "": {}, "*": {"each": {}}})
@example((1, ("stages", "more")), {"each": {"a": {"kind": "numbers"}, "b": {"kind": ["x"]}}})
@example((1, ("stages", "more", "each", "a")), {"each": {"x": {}}, "kind": "join"})
@example((1, ("stages", "joined", "inputs", "rows")), "more.*.rows")
@example((1, ("stages", "joined", "inputs")), "more.*.rows")
@example((1, ("profiles", "tiny", "stages")), {"more": {"each": {"c": {}, "a": None}}, "more-b": 1})
@example((1, ("profiles", "tiny", "stages")), {"more": None, "few": {"each": {"x": {}}}})
@example((1, ("targets",)), ["more", {"a": 1}])
@example((1, ("profiles", "tiniest")), "$params.seed")
@example((1, ("profiles", "tiniest", "defaults")), "$params.seed")
@example((1, ("targets",)), "$params.seed")
def test_any_value_anywhere_is_answered(
    root: Path, place: tuple[int, tuple[Any, ...]], value: Any
) -> None:
    number, path = place
    document = json.loads(json.dumps(DOCUMENTS[number]))
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    text = json.dumps(document).replace("Infinity", ".inf").replace("NaN", ".nan")
    answers(write_manifest(root, text, "fuzzed"))


@FUZZ
@given(
    st.sampled_from([MANIFEST, SHORT]),
    st.integers(0, max(len(MANIFEST), len(SHORT))),
    st.integers(0, 30),
    st.text("{}[]:,'\"#&*!|>%@`- \n\ta1", max_size=4),
)
def test_any_damage_to_the_text_is_answered(
    root: Path, whole: str, start: int, length: int, new: str
) -> None:
    text = whole[:start] + new + whole[start + length :]
    path = root / "manifests" / "fuzzed.yaml"
    path.write_text(text)
    answers(path)


@FUZZ
@given(
    st.sampled_from(
        [
            "stages",
            "stages.numbers",
            "stages.numbers.params.count",
            "stages.numbers.each.a",
            "defaults.numbers",
            "defaults.*.params.seed",
            "params.seed",
            "x",
        ]
    )
    | st.text(".abstages=params", max_size=12),
    st.text("{}[]:,'\"#&*!|>-+ \n0123456789etrunl$params.sd", max_size=12),
)
def test_any_override_is_answered(root: Path, path: str, value: str) -> None:
    answers(root / "manifests" / "small.yaml", overrides=[f"{path}={value}"])


@FUZZ
@given(st.binary(max_size=60))
def test_any_bytes_are_answered(root: Path, data: bytes) -> None:
    path = root / "manifests" / "fuzzed.yaml"
    path.write_bytes(data)
    answers(path)
