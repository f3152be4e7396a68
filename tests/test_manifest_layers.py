"""Manifests that extend others, profiles that extend others, and what null takes away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_project import MANIFEST, make_project, mistakes_of, write_manifest

from r1pipe.manifest import load_manifest


@pytest.fixture
def project(tmp_path: Path) -> Path:
    make_project(tmp_path)
    return tmp_path


def extend(project: Path, text: str) -> Path:
    return write_manifest(project, f"r1pipe: 1\nname: other\nextends: small.yaml\n{text}", "other")


def test_an_extending_manifest_changes_what_it_names_and_keeps_the_rest(project: Path) -> None:
    path = extend(project, "stages: {joined: {params: {keep: {verdict: wrong}}}}\n")
    manifest = load_manifest(path)
    params: Any = manifest.stages["joined"].params
    keep = params.keep
    assert (manifest.name, keep.verdict, keep.max_chars) == ("other", "wrong", 7)
    origins = manifest.stages["joined"].origins
    assert str(origins["params.keep.verdict"]) == f"{path}:4:44"
    assert str(origins["params.keep.max_chars"]) == f"{project}/manifests/small.yaml:11:32"


def test_a_mistake_below_points_into_the_file_below(project: Path) -> None:
    write_manifest(project, MANIFEST.replace("max_chars: 7", "max_chars: x"))
    found = mistakes_of(extend(project, "stages: {joined: {params: {levels: x}}}\n"))
    assert found == [
        "other.yaml:4:36: stages.joined.params.levels should be a list, not 'x'",
        "small.yaml:11:32: stages.joined.params.keep.max_chars should be a whole number, not 'x'",
    ]


def test_null_takes_a_stage_away_and_its_profiles_no_longer_matter(project: Path) -> None:
    path = extend(
        project,
        """stages:
  numbers: null
  joined: {inputs: {rows: prompts2, extra: null}}
sources:
  prompts2: {path: x, as: rows}
  prompts: null
""",
    )
    manifest = load_manifest(path)  # profile laptop still names `numbers`
    assert list(manifest.stages) == ["joined", "scores"]
    assert list(manifest.sources) == ["prompts2"]
    assert list(manifest.stages["joined"].inputs) == ["rows"]


def test_null_of_something_unknown_is_a_mistake(project: Path) -> None:
    found = mistakes_of(extend(project, "stages: {joind: null}\n"))
    assert found == ["other.yaml:4:10: unknown stage 'joind'; did you mean 'joined'?"]


def test_a_stage_taken_away_and_still_needed_is_a_mistake(project: Path) -> None:
    found = mistakes_of(extend(project, "stages: {joined: null}\n"))
    assert found == [
        "small.yaml:16:45: stages.scores.inputs.rows: no stage or source 'joined'; names: numbers,"
        " prompts, scores"
    ]


def test_a_profile_may_take_a_stage_away(project: Path) -> None:
    path = extend(project, "profiles: {tiny: {extends: laptop, stages: {scores: null}}}\n")
    assert list(load_manifest(path, profile="tiny").stages) == ["numbers", "joined"]
    assert list(load_manifest(path).stages) == ["numbers", "joined", "scores"]


def test_a_profile_may_not_add_a_stage(project: Path) -> None:
    path = extend(project, "profiles: {laptop: {stages: {qq: {kind: numbers}}}}\n")
    assert mistakes_of(path) == [
        "other.yaml:4:30: unknown stage 'qq'; stages: joined, numbers, scores"
    ]


def test_what_extends_itself_is_refused(project: Path) -> None:
    write_manifest(project, MANIFEST.replace("name: small", "name: small\nextends: other.yaml"))
    found = mistakes_of(extend(project, ""))
    assert found[0] == "small.yaml:3:10: 'other.yaml' extends itself; leave one out"
    profiles = "profiles: {a: {extends: b}, b: {extends: a}}\n"
    make_project(project)
    found = mistakes_of(extend(project, profiles), profile="a")
    assert "other.yaml:4:42: profile 'a' extends itself" in found


def test_a_missing_base_is_named(project: Path) -> None:
    text = "r1pipe: 1\nname: x\nextends: smal.yaml\n"
    found = mistakes_of(write_manifest(project, text, "other"))
    assert found == [
        "other.yaml:3:10: no manifest smal.yaml; a path is relative to this file's folder"
    ]


def test_a_shared_parameter_may_hold_any_value_and_not_refer_on(project: Path) -> None:
    text = MANIFEST.replace("{seed: 3}", "{seed: 3, levels: [7]}")
    text = text.replace("levels: [3, 4]", "levels: $params.levels")
    manifest = load_manifest(write_manifest(project, text))
    params: Any = manifest.stages["joined"].params
    assert params.levels == (7,)
    wrong = mistakes_of(write_manifest(project, text.replace("[7]", "$params.seed")))
    assert wrong == [
        "small.yaml:4:27: '$params.levels' is '$params.seed', which refers further; give its value"
    ]


ANOTHER_KIND = """stages:
  joined: {kind: numbers, params: {count: 3}}
  scores: null
"""


def test_a_stage_of_another_kind_has_nothing_of_the_profiles_below(project: Path) -> None:
    """Neither in the profile that is chosen nor in the others: they spoke of the kind before."""
    words = "stages: {joined: {params: {keep: {max_chars: 5}}, run: {workers: 4}}}"
    write_manifest(project, f"{MANIFEST.rstrip()}\n  big: {{{words}}}\n")
    path = extend(project, ANOTHER_KIND)
    params: Any = load_manifest(path).stages["joined"].params
    run: Any = load_manifest(path, profile="big").stages["joined"].run
    assert (params.count, run.workers) == (3, 1)


def test_what_the_manifest_itself_says_in_a_profile_of_such_a_stage_holds(project: Path) -> None:
    words = "{params: {keep: {max_chars: 5}}}"
    write_manifest(project, f"{MANIFEST.rstrip()}\n  big: {{stages: {{joined: {words}}}}}\n")
    own = "profiles: {big: {stages: {joined: {params: {count: 4}}}}}\n"
    params: Any = load_manifest(extend(project, ANOTHER_KIND + own), profile="big").stages["joined"]
    assert params.params.count == 4
    wrong = "profiles: {big: {stages: {joined: {params: {coun: 4}}}}}\n"
    (found,) = mistakes_of(extend(project, ANOTHER_KIND + wrong))
    assert found.startswith("other.yaml:7:")
    assert "unknown key 'coun'" in found


def test_a_profile_below_that_gives_the_stage_a_kind_itself_holds(project: Path) -> None:
    words = "{kind: numbers, params: {count: 9}}"
    write_manifest(project, f"{MANIFEST.rstrip()}\n  big: {{stages: {{joined: {words}}}}}\n")
    params: Any = load_manifest(extend(project, ANOTHER_KIND), profile="big").stages["joined"]
    assert params.params.count == 9
