"""Stage files are found by path, loaded when used, and refused with their line."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from fake_project import NUMBERS, make_project

from r1pipe.errors import ManifestError
from r1pipe.manifest import recipe
from r1pipe.manifest.kinds import load_kinds
from r1pipe.manifest.recipe import find_manifest, path_in, project_root, recipe_root, stage_folders


@pytest.fixture
def project(tmp_path: Path) -> Path:
    make_project(tmp_path)
    return tmp_path


def load(project: Path, text: str, kind: str = "made-up") -> None:
    (project / "stages" / f"{kind.replace('-', '_')}.py").write_text(text)
    load_kinds(project / "manifests" / "small.yaml")[kind]


def test_a_kind_is_a_file_with_dashes_for_underscores(project: Path) -> None:
    (project / "stages" / "rejection_sample.py").write_text(NUMBERS.lstrip())
    (project / "stages" / "_shared.py").write_text("raise RuntimeError")
    kinds = load_kinds(project / "manifests" / "small.yaml")
    assert {"join", "numbers", "rejection-sample", "scoreboard"} <= set(kinds)
    assert "_shared" not in kinds
    kind = kinds["rejection-sample"]
    assert (kind.kind, kind.version, list(kind.outputs)) == (
        "rejection-sample",
        1,
        ["rows", "report"],
    )
    assert kinds["rejection-sample"] is kind


def test_only_the_kind_that_is_used_is_loaded(project: Path) -> None:
    (project / "stages" / "broken.py").write_text("raise RuntimeError('no')")
    kinds = load_kinds(project / "manifests" / "small.yaml")
    assert "broken" in kinds
    assert kinds["numbers"].version == 1
    assert "r1pipe_stages.broken" not in sys.modules


def test_a_file_beside_the_manifest_goes_before_the_one_that_comes_along(project: Path) -> None:
    root = recipe_root()
    assert root is not None
    (project / "stages" / "grpo.py").write_text(NUMBERS.lstrip())
    kinds = load_kinds(project / "manifests" / "small.yaml")
    assert kinds["grpo"].path == project / "stages" / "grpo.py"
    assert load_kinds(root / "manifests" / "r1.yaml")["grpo"].path == root / "stages" / "grpo.py"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = (\n", r"made_up\.py:1:5: not Python: '\(' was never closed"),
        (
            "import sys\n\nimport nothing_here\n",
            r"made_up\.py:3:1: the stage file cannot be loaded",
        ),
        ("def f():\n    1 / 0\n\n\nf()\n", r"made_up\.py:2:1: .*ZeroDivisionError"),
        (NUMBERS.replace("VERSION = 1", ""), r"VERSION is missing; a stage file has VERSION = 1"),
        (NUMBERS.replace("VERSION = 1", "VERSION = 'a'"), r"made_up\.py:6:1: VERSION is 'a'"),
        (NUMBERS.replace("VERSION = 1", "VERSION = True"), r"made_up\.py:6:1: VERSION is True"),
        (NUMBERS.replace("class Run(", "class Ran("), r"Run is missing; .*class Run\(StageModel\)"),
        (NUMBERS.replace("class Run(StageModel)", "class Run"), r"made_up\.py:18:1: Run is <class"),
        (NUMBERS.replace("def run(", "def ran("), r"run is missing; a stage file has def run"),
        (NUMBERS.replace("INPUTS = {}", "INPUTS = {'a': 'rows'}"), r"py:23:1: INPUTS must map"),
        (
            NUMBERS.replace(
                "INPUTS = {}",
                "from r1pipe.stage import Input; INPUTS = {'a': Input('model', tokenizer_of='b')}",
            ),
            r"INPUTS must name another input in tokenizer_of",
        ),
        (NUMBERS.replace('"rows": "rows", "report": "report"', ""), r"OUTPUTS must name at least"),
    ],
)
def test_a_stage_file_that_lacks_a_part_is_refused_with_its_line(
    project: Path, text: str, message: str
) -> None:
    with pytest.raises(ManifestError, match=message):
        load(project, text)


def test_a_manifest_that_is_not_here_is_the_one_that_comes_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "recipe"
    make_project(root)
    monkeypatch.setattr("r1pipe.manifest.recipe.recipe_root", lambda: root)
    monkeypatch.chdir(tmp_path)
    asked = Path("manifests/small.yaml")
    assert find_manifest(asked) == root / "manifests" / "small.yaml"
    assert find_manifest(Path("other/small.yaml")) == Path("other/small.yaml")
    assert find_manifest(Path("manifests/no.yaml")) == Path("manifests/no.yaml")
    (root / "manifests" / "deep").mkdir()
    (root / "manifests" / "deep" / "one.yaml").touch()
    assert find_manifest(Path("manifests/deep/one.yaml")) == root / "manifests/deep/one.yaml"
    make_project(tmp_path)
    assert find_manifest(asked) == asked


def test_a_project_is_the_folder_above_manifests(tmp_path: Path) -> None:
    path = make_project(tmp_path)
    assert project_root(path) == tmp_path
    assert project_root(path.with_name("absent.yaml")) == Path()
    deep = path.parent / "deep" / "one.yaml"
    deep.parent.mkdir()
    deep.touch()
    assert project_root(deep) == tmp_path
    assert stage_folders(deep)[0] == tmp_path / "stages"
    (tmp_path / "a.yaml").touch()
    assert project_root(tmp_path / "a.yaml") == Path()


def test_paths_of_an_installed_manifest_count_from_the_folder_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "PACKAGE", tmp_path / "package")
    own = tmp_path / "package" / "_recipe" / "manifests"
    train = Path("../data/train.jsonl")
    assert path_in(own / "own.yaml", train) == Path("data/train.jsonl")
    assert path_in(own / "methods" / "dpo.yaml", Path("../../data/a")) == Path("data/a")
    assert path_in(own / "own.yaml", Path("/models/a")) == Path("/models/a")
    mine = Path("project/manifests/own.yaml")
    assert path_in(mine, train) == Path("project/data/train.jsonl")


def test_a_path_past_a_linked_folder_stays_the_file_that_it_names(tmp_path: Path) -> None:
    (tmp_path / "far" / "manifests").mkdir(parents=True)
    (tmp_path / "manifests").symlink_to(tmp_path / "far" / "manifests")
    found = path_in(tmp_path / "manifests" / "own.yaml", Path("../data/a"))
    assert found.resolve() == tmp_path / "far" / "data" / "a"


def test_no_two_manifests_take_one_file_for_different_things() -> None:
    root = recipe_root()
    assert root is not None
    claimed: dict[str, str] = {}
    for path in sorted((root / "manifests").glob("*.yaml")):
        for found in re.findall(r"path: (\.\./data/[^,}]+)", path.read_text()):
            assert claimed.setdefault(found, path.name) == path.name, found
