"""Fixtures that many test files share."""

from __future__ import annotations

import sys

import pytest
from command import Run

from r1pipe.cli import main as cli


@pytest.fixture
def r1pipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command line in this process: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["r1pipe", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as error:
            cli.main()
        out, err = capsys.readouterr()
        return int(error.value.code or 0), out, err

    return run
