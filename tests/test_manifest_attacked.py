"""Manifests that are no manifests: a clear error with its exit code, at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from command import Run
from fake_project import MANIFEST, make_project, write_manifest

HEAD = "r1pipe: 1\nname: x\n"


def anchors(levels: int) -> str:
    """Return a chain of anchors, each one level deeper than the one before, in few characters."""
    lines = ["params:", "  a0: &a0 [1]"]
    lines += [f"  a{n}: &a{n} [*a{n - 1}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    make_project(tmp_path)
    return tmp_path


def plan(r1pipe: Run, path: Path | str, *more: str) -> str:
    code, _, err = r1pipe("plan", str(path), *more)
    assert code == 2, err
    assert len(err) < 2000
    return err


@pytest.mark.parametrize("levels", [60, 200, 400, 1000])
def test_chained_anchors_do_not_unfold_beyond_the_levels_of_a_document(
    project: Path, r1pipe: Run, levels: int
) -> None:
    path = write_manifest(project, HEAD + anchors(levels))
    assert "nested too deeply" in plan(r1pipe, path)


def test_forty_levels_of_anchors_count_like_forty_of_brackets(project: Path, r1pipe: Run) -> None:
    stages = MANIFEST.replace("params: {seed: 3}\n", "params:\n  seed: 3\n" + anchors(38)[8:])
    assert r1pipe("plan", str(write_manifest(project, stages)))[0] == 0


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null", "/dev/tty"])
def test_a_device_is_no_manifest(r1pipe: Run, name: str) -> None:
    assert "not a plain file" in plan(r1pipe, name)


def test_a_pipe_is_no_manifest_and_nobody_waits_for_its_writer(project: Path, r1pipe: Run) -> None:
    os.mkfifo(project / "manifests/pipe.yaml")
    assert "not a plain file" in plan(r1pipe, project / "manifests/pipe.yaml")
    path = write_manifest(project, HEAD + "extends: pipe.yaml\n")
    assert "not a plain file" in plan(r1pipe, path)


def test_a_large_file_is_no_manifest_and_is_not_read(project: Path, r1pipe: Run) -> None:
    path = project / "manifests/large.yaml"
    with path.open("wb") as file:
        file.truncate(20 << 30)
    assert "is it the right file?" in plan(r1pipe, path)


@pytest.mark.parametrize("path", ["x" * 5000, "x/" * 3000, "x" * 300 + ".yaml"])
def test_a_very_long_path_is_no_manifest(project: Path, r1pipe: Run, path: str) -> None:
    plan(r1pipe, path)
    plan(r1pipe, write_manifest(project, HEAD + f"extends: {path}\n"))


@pytest.mark.parametrize("text", ['"a\\0b"', "/proc/1/mem", "~nouser/x", '"\\u202e"', "/dev/zero"])
def test_odd_paths_of_other_manifests_are_mistakes_at_their_place(
    project: Path, r1pipe: Run, text: str
) -> None:
    plan(r1pipe, write_manifest(project, HEAD + f"extends: {text}\n"))


@pytest.mark.parametrize("text", ['"a\\0b"', "~nouser/x", "x" * 5000, "x" * 300])
def test_odd_paths_of_sources_and_plugins_are_mistakes_at_their_place(
    project: Path, r1pipe: Run, text: str
) -> None:
    source = MANIFEST.replace("../data/prompts.jsonl", text)
    assert "small.yaml:6" in plan(r1pipe, write_manifest(project, source))
    plugin = MANIFEST.replace("sources:", f"plugins: [{text}]\nsources:")
    assert "small.yaml:5" in plan(r1pipe, write_manifest(project, plugin))
    override = f"sources.prompts.path={text}"
    plan(r1pipe, write_manifest(project, MANIFEST), "--set", override)


def test_a_long_chain_of_manifests_is_a_mistake(project: Path, r1pipe: Run) -> None:
    for number in range(1200):
        text = f"{HEAD}extends: n{number + 1}.yaml\n"
        path = write_manifest(project, text, f"n{number}")
        assert path.exists()
    write_manifest(project, MANIFEST, "n1200")
    assert "more than 40 manifests extend" in plan(r1pipe, project / "manifests/n0.yaml")


def test_a_ring_of_manifests_is_a_mistake(project: Path, r1pipe: Run) -> None:
    for number in range(3):
        write_manifest(project, f"{HEAD}extends: r{(number + 1) % 3}.yaml\n", f"r{number}")
    assert "extends itself" in plan(r1pipe, project / "manifests/r0.yaml")


@pytest.mark.parametrize("digits", [299, 310, 400, 5000])
def test_an_integer_of_many_digits_is_a_mistake_or_a_number(
    project: Path, r1pipe: Run, digits: int
) -> None:
    for name in ("rate", "count", "seed"):
        text = MANIFEST.replace("count: 10", f"count: 10, rate: {'9' * digits}")
        if name != "rate":
            text = MANIFEST.replace("seed: $params.seed", f"seed: {'9' * digits}")
        code, _, err = r1pipe("plan", str(write_manifest(project, text)))
        assert code in (0, 2), err
