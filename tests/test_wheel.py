"""The wheel has all that a run needs, and runs away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what the wheel installs."""
    pytest.importorskip("hatchling", reason="the extra `dev` has it")
    made = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(made)],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    (wheel,) = made.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(made / "site")
    return made / "site"


def test_the_wheel_has_every_file_of_the_package_the_stages_and_the_manifests(
    unpacked: Path,
) -> None:
    for folder, inside in (
        ("r1pipe", "r1pipe"),
        ("stages", "r1pipe/_recipe/stages"),
        ("manifests", "r1pipe/_recipe/manifests"),
    ):
        wanted = {
            path.relative_to(ROOT / folder)
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        found = {path.relative_to(unpacked / inside) for path in (unpacked / inside).rglob("*")}
        assert wanted <= found, sorted(map(str, wanted - found))


def test_it_runs_in_an_empty_folder_without_the_checkout(unpacked: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(unpacked), "HF_HUB_OFFLINE": "1"}
    environment.pop("R1PIPE_STORE", None)

    def r1pipe(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "r1pipe", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    where = "import r1pipe; print(r1pipe.__file__)"
    found = subprocess.run(
        [sys.executable, "-P", "-c", where], env=environment, capture_output=True, check=True
    )
    assert str(unpacked) in found.stdout.decode(), "it is the wheel's package that runs"
    assert "34 stages: 34 to build" in r1pipe("plan", "--profile", "smoke")
    assert "held-out: done" in r1pipe("run", "--profile", "smoke", "--to", "held-out")
    assert (tmp_path / "artifacts" / "latest" / "r1" / "smoke" / "held-out").exists()
