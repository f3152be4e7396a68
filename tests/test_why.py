"""`why` names what changed by itself, through every stage in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from store_world import EMPTY_STAGE, QuietConsole, chain, halve, kind, manifest, stage, two_outputs

from r1pipe.errors import ManifestError
from r1pipe.manifest import Manifest
from r1pipe.pipeline.run import run
from r1pipe.pipeline.why import Change, explain
from r1pipe.store.store import Store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def build(root: Path, made: Manifest, **options: Any) -> list[str]:
    return run(made, Store(root), QuietConsole(), **options).built


def roots(root: Path, made: Manifest, name: str) -> list[tuple[str, str, Any, Any]]:
    found = explain(made, Store(root), name).roots()
    return [(of, change.path, change.old, change.new) for of, change in found]


def test_a_hit_is_explained_by_its_key(root: Path) -> None:
    build(root, chain())
    explanation = explain(chain(), Store(root), "third")
    assert explanation.status == "hit"
    assert explanation.changes == []
    assert explanation.key is not None
    assert explanation.key[:8] in explanation.summary


def test_a_stage_without_any_result_says_so(root: Path) -> None:
    explanation = explain(chain(), Store(root), "first")
    assert explanation.status == "run"
    assert explanation.summary == "no result of kind 'write-number' is in the store yet"


def test_a_changed_parameter_is_named_with_both_values_and_its_place(root: Path) -> None:
    build(root, chain(2))
    explanation = explain(chain(5), Store(root), "first")
    assert explanation.changes == [Change("params.number", 2, 5, "tiny.yaml:10:3")]


def test_a_value_back_at_its_default_shows_the_default(root: Path) -> None:
    build(root, chain(2))
    assert roots(root, chain(1), "first") == [("first", "params.number", 2, "default 1")]


def test_the_cause_is_found_through_stages_that_have_not_run(root: Path) -> None:
    build(root, chain(2))
    assert roots(root, chain(8), "third") == [("first", "params.number", 2, 8)]


def test_the_cause_is_found_through_stages_that_have_run_since(root: Path) -> None:
    build(root, chain(2))
    build(root, chain(8), to="second")
    explanation = explain(chain(8), Store(root), "third")
    assert explanation.status == "run"
    assert roots(root, chain(8), "third") == [("first", "params.number", 2, 8)]


def test_a_changed_source_is_a_root_cause_with_its_place(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_text("abc")
    made = manifest(stage("only", inputs={"a": "@data"}), sources={"data": path})
    build(root, made)
    path.write_text("abcd")
    ((of, change),) = explain(made, Store(root), "only").roots()
    assert (of, change.path) == ("only", "inputs.a")
    assert change.origin == "source data at tiny.yaml:5:3"


def test_a_raised_version_is_named(root: Path) -> None:
    build(root, manifest(stage("only")))
    made = manifest(stage("only", kind(version=2)))
    ((_, change),) = explain(made, Store(root), "only").roots()
    assert (change.path, change.old, change.new) == ("version", 1, 2)
    assert change.origin == str(EMPTY_STAGE)


def test_an_input_that_reads_another_stage_is_a_change_of_the_input(root: Path) -> None:
    def made(read: str) -> Manifest:
        return manifest(
            stage("one", number=1), stage("two", number=2), stage("sum", inputs={"a": read})
        )

    build(root, made("one"))
    ((of, change),) = explain(made("two"), Store(root), "sum").roots()
    assert (of, change.path) == ("sum", "inputs.a")


def test_another_output_of_the_same_stage_is_a_change_of_the_input(root: Path) -> None:
    two = kind(two_outputs, outputs={"even": "rows", "data": "rows"})
    halves = kind(halve)
    build(root, manifest(stage("two", two), stage("half", halves, {"a": "two.data"})))
    made = manifest(stage("two", two, number=3), stage("half", halves, {"a": "two.data"}))
    assert roots(root, made, "half") == [("two", "params.number", "default 1", 3)]


def test_the_same_key_with_other_bytes_says_that_it_was_built_again(root: Path) -> None:
    numbers = iter([1, 2])

    def random_number(context: Any, params: Any, run: Any, inputs: Any) -> None:
        (context.output("data") / "number.json").write_text(str(next(numbers)))

    made = manifest(stage("random", kind(random_number)), stage("sum", inputs={"a": "random"}))
    build(root, made)
    build(root, made, rebuild=["random"], to="random")
    explanation = explain(made, Store(root), "sum")
    assert explanation.changes[0].cause is not None
    assert "the same key gave other bytes" in explanation.changes[0].cause.summary


def test_the_nearest_result_is_the_one_with_the_fewest_changes(root: Path) -> None:
    build(root, manifest(stage("only", number=3, steps=5, text="x")))
    build(root, manifest(stage("only", number=9, steps=5, text="y")))
    made = manifest(stage("only", number=4, steps=5, text="x"))
    assert roots(root, made, "only") == [("only", "params.number", 3, 4)]


def test_lines_hold_the_whole_way_and_json_does_too(root: Path) -> None:
    build(root, chain(2))
    explanation = explain(chain(8), Store(root), "third")
    text = "\n".join(explanation.lines())
    assert text.startswith("third: waits: differs from the nearest result, third@")
    assert "\n          params.number: 2 -> 8   [tiny.yaml:10:3]" in text
    assert explanation.to_json()["changes"][0]["cause"]["stage"] == "second"


def test_an_unknown_stage_is_refused_with_the_nearest_name(root: Path) -> None:
    with pytest.raises(ManifestError, match="no stage 'thrid'; did you mean 'third'"):
        explain(chain(), Store(root), "thrid")
