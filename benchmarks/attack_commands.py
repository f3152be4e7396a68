"""Run command lines as a user does, in processes that are forked from one that has imported all."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Self

LIMIT_S = 30.0
"""A command that takes longer hangs."""


@dataclass(frozen=True)
class Reply:
    """How a command ended; 124 if it had to be killed for its time."""

    command: tuple[str, ...]
    code: int
    out: str
    err: str


class Commands:
    """Runs commands; a fork spares each of them the imports."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="r1pipe-replies-")
        self.number = 0
        import r1pipe.cli.console
        import r1pipe.cli.read_commands
        import r1pipe.cli.run_commands
        import r1pipe.cli.store_commands
        import r1pipe.pipeline.building
        import r1pipe.pipeline.run  # noqa: F401 - for the children

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.folder.cleanup()

    def run(self, root: Path, *command: str) -> Reply:
        """Run one command in a folder."""
        return self.together(root, [command])[0]

    def together(self, root: Path, commands: list[tuple[str, ...]]) -> list[Reply]:
        """Run commands at the same time."""
        started = [(command, *self._start(root, command)) for command in commands]
        return [self._reply(command, pid, out, err) for command, pid, out, err in started]

    def kill(self, root: Path, seconds: float, *command: str) -> None:
        """Run one command and kill it after some time."""
        pid, _, _ = self._start(root, command)
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    def _start(self, root: Path, command: tuple[str, ...]) -> tuple[int, Path, Path]:
        self.number += 1
        out, err = (Path(self.folder.name, f"{self.number}.{name}") for name in ("out", "err"))
        pid = os.fork()
        if pid == 0:
            self._child(root, command, out, err)
        return pid, out, err

    def _child(self, root: Path, command: tuple[str, ...], out: Path, err: Path) -> None:
        code: object = 1
        try:
            os.chdir(root)
            for place, path in ((1, out), (2, err)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), place)
            sys.argv = ["r1pipe", *command]
            from r1pipe.cli import main

            main.main()
        except SystemExit as end:
            code = end.code
        except BaseException:  # noqa: BLE001 - a bug, as the interpreter would show it
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code if isinstance(code, int) else 1)

    def _reply(self, command: tuple[str, ...], pid: int, out: Path, err: Path) -> Reply:
        end, code = time.monotonic() + LIMIT_S, None
        while code is None:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                code = 124
            else:
                time.sleep(0.002)
        texts = [path.read_bytes().decode(errors="replace") for path in (out, err)]
        for path in (out, err):
            path.unlink()
        return Reply(
            command, code, texts[0].replace("\ufffd", "?"), texts[1].replace("\ufffd", "?")
        )
