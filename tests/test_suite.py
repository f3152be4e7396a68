"""How the tests themselves are run: the processes that share them, and what comes first."""

from __future__ import annotations

import subprocess
from pathlib import Path

import conftest
import pytest

TESTS = Path(__file__).parent
GIB = 1 << 30


@pytest.mark.parametrize(
    ("cores", "gib", "workers"), [(2, 24, 2), (1, 24, 0), (16, 24, 3), (16, 10, 0), (4, 64, 4)]
)
def test_there_is_a_worker_for_each_core_that_has_memory(
    monkeypatch: pytest.MonkeyPatch, cores: int, gib: int, workers: int
) -> None:
    monkeypatch.setattr(conftest, "usable_cores", lambda: cores)
    monkeypatch.setattr(conftest, "total_memory", lambda: gib * GIB)
    assert conftest.pytest_xdist_auto_num_workers() == workers


def test_the_files_that_come_first_are_there() -> None:
    assert [name for name in conftest.LONGEST if not (TESTS / f"{name}.py").exists()] == []


@pytest.mark.parametrize(
    ("given", "last"),
    [
        ("", "-m pytest -n auto --dist loadfile --no-loadscope-reorder"),
        ("tests/test_x.py -n 0", "--no-loadscope-reorder tests/test_x.py -n 0"),
        ("-p no:xdist -x", "-m pytest -p no:xdist -x"),
    ],
)
def test_the_runner_hands_its_arguments_to_pytest(tmp_path: Path, given: str, last: str) -> None:
    programs, said = tmp_path / ".venv" / "bin", tmp_path / "said"
    programs.mkdir(parents=True)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "run.sh").write_text((TESTS / "run.sh").read_text())
    for name in ("python", "ruff", "mypy"):
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >> "{said}"\n')
        (programs / name).chmod(0o755)
    command = ["bash", str(tmp_path / "tests" / "run.sh"), *given.split()]
    environment = {"PATH": "/usr/bin:/bin"}
    subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60)
    commands = said.read_text().splitlines()
    assert commands[-1].endswith(last)
    assert [line.split()[0] for line in commands] == ["python", "ruff", "ruff", "mypy", "python"]
