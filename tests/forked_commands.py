"""Run command lines one after another, each in a fork of a process that has all imports behind it.

usage: PYTHONPATH=.:tests python tests/forked_commands.py '[["FAULT or empty", ["run", ...]], ...]'

Starting Python takes seconds, a fork takes none. Prints, as JSON, how each ended and what it said.
This process computes nothing before it forks: threads of OpenMP would be missing in the children.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import NamedTuple


class Ended(NamedTuple):
    """How a command ended: its exit code or minus a signal, and what it printed."""

    code: int
    said: str


def forked(commands: Iterable[tuple[str, Sequence[str]]]) -> list[Ended]:
    """Run commands of r1pipe in order, each with a fault or with an empty text for none."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(list(commands))],
        env=environment | {"PYTHONPATH": os.pathsep.join(map(str, (HERE.parent, HERE)))},
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [Ended(*each) for each in json.loads(done.stdout)]


HERE = Path(__file__).parent


def command(arguments: Sequence[str], printed: Path) -> None:
    """Run a command line, its output in a file."""
    from r1pipe.cli import main as cli
    from r1pipe.errors import StageError

    sys.argv = ["r1pipe", *arguments]
    with printed.open("w") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            cli.main()
        except SystemExit as end:
            if end.code:
                raise StageError(f"it ended with {end.code}") from None


def main(commands: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Fork for each command."""
    from killing import call
    from transformers import Qwen3ForCausalLM

    from r1pipe.policies import setup, training
    from r1pipe.supervision import training as supervised

    assert all((Qwen3ForCausalLM, setup, training, supervised)), "imported before the forks"
    ended = []
    with tempfile.TemporaryDirectory() as folder:
        printed = Path(folder) / "printed"
        for fault, arguments in commands:
            code = call(partial(command, arguments, printed), fault or None)
            ended.append(Ended(code, printed.read_text()))
    sys.stdout.write(json.dumps(ended))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
