"""The command line as a user runs it: in a process of its own, in the repository."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
Run = Callable[..., tuple[int, str, str]]
"""Runs a command line: exit code, stdout, stderr."""


def r1pipe(*arguments: str, fault: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run r1pipe offline, with a fault asked for; its output as text."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    if fault:
        environment["R1PIPE_FAULT"] = fault
    return subprocess.run(
        [sys.executable, "-m", "r1pipe.cli", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )
