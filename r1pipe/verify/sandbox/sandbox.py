"""Run model-written Python in a sandboxed process of its own that is always ended.

Own session and process group, killed whole; limits on time, memory, files and output; an empty
temporary folder; and, where the system has them, no network, no other files, no new processes (see
`child`). `Outcome.layers` says which of those held.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from r1pipe.errors import StageError
from r1pipe.keys import Json
from r1pipe.verify.sandbox import child

_READABLE = ("/usr/lib", "/usr/local/lib", "/lib", "/lib64", "/dev/null", "/dev/urandom")
_CHUNK = 1 << 16


class Status(StrEnum):
    """How a program ended."""

    OK = "ok"
    FAILED = "failed"
    TIMEOUT = "timeout"
    TOO_MUCH_OUTPUT = "too_much_output"


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one run; wall and CPU time in seconds, the rest in bytes."""

    wall_s: float = 5.0
    cpu_s: int = 5
    memory_bytes: int = 512 << 20
    file_bytes: int = 16 << 20
    output_bytes: int = 1 << 20

    def rlimits(self) -> dict[str, int]:
        """Return the resource limits by name."""
        return {
            "RLIMIT_CPU": self.cpu_s,
            "RLIMIT_AS": self.memory_bytes,
            "RLIMIT_FSIZE": self.file_bytes,
            "RLIMIT_CORE": 0,
            "RLIMIT_NOFILE": 64,
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """A program's output (cut at the limit) and, for calls, their values in order."""

    status: Status
    stdout: str
    stderr: str
    values: list[Json] = field(default_factory=list)
    wall_s: float = 0.0
    layers: dict[str, bool] = field(default_factory=dict)


def run_python(
    program: str,
    stdin: str = "",
    *,
    calls: Sequence[str] | None = None,
    limits: Limits | None = None,
) -> Outcome:
    """Run a program; with `calls`, evaluate those expressions in it afterwards.

    Values come back as JSON, so an object that claims to equal everything is an error, not a match.
    """
    limits = limits or Limits()
    with tempfile.TemporaryDirectory(prefix="r1pipe-sandbox-") as folder:
        os.chmod(folder, 0o700)
        path = Path(folder) / "program.py"
        path.write_text(program, encoding="utf-8", errors="replace")
        (Path(folder) / "stdin").write_text(stdin, encoding="utf-8", errors="replace")
        return _run(Path(folder), path, calls, limits)


def _run(folder: Path, path: Path, calls: Sequence[str] | None, limits: Limits) -> Outcome:
    report_out, report_in = os.pipe()
    settings: child.Settings = {
        "program": str(path),
        "folder": str(folder),
        "readable": [*_READABLE, sys.base_prefix, sys.prefix],
        "limits": limits.rlimits(),
        "calls": None if calls is None else list(calls),
        "report_fd": report_in,
    }
    started = time.monotonic()
    with (folder / "stdin").open("rb") as stdin:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", child.__file__, json.dumps(settings)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env={"PYTHONHASHSEED": "0", "PYTHONIOENCODING": "utf-8", "HOME": str(folder)},
            pass_fds=[report_in],
            start_new_session=True,
        )
    os.close(report_in)
    assert process.stdout is not None, "stdout is a pipe"
    assert process.stderr is not None, "stderr is a pipe"
    pipes = [process.stdout.fileno(), process.stderr.fileno(), report_out]
    try:
        texts, ending = _collect(pipes, started + limits.wall_s, limits.output_bytes)
        status = _end(process, ending, started + limits.wall_s)
    finally:
        _kill(process)
        os.close(report_out)
        process.stdout.close()
        process.stderr.close()
    if process.returncode == child.SETUP_FAILED:
        raise StageError(f"sandbox: the child could not start: {texts[1][-300:]}")
    return _outcome(status, texts, calls, time.monotonic() - started)


def _collect(pipes: list[int], deadline: float, cap: int) -> tuple[list[str], Status]:
    """Read all pipes to their end, the deadline or the output limit, whichever comes first."""
    chunks: dict[int, list[bytes]] = {fd: [] for fd in pipes}
    size, ending = 0, Status.OK
    with selectors.DefaultSelector() as selector:
        for fd in pipes:
            selector.register(fd, selectors.EVENT_READ)
        while selector.get_map():
            left = deadline - time.monotonic()
            ready = selector.select(left) if left > 0 else []
            if not ready:
                ending = Status.TIMEOUT
                break
            for key, _ in ready:
                chunk = os.read(key.fd, _CHUNK)
                if not chunk:
                    selector.unregister(key.fd)
                chunks[key.fd].append(chunk)
                size += len(chunk)
            if size > cap:
                ending = Status.TOO_MUCH_OUTPUT
                break
    return [b"".join(chunks[fd])[:cap].decode("utf-8", "replace") for fd in pipes], ending


def _end(process: subprocess.Popen[bytes], ending: Status, deadline: float) -> Status:
    """Wait for a process whose pipes are closed; one that lingers is late."""
    if ending is not Status.OK:
        return ending
    try:
        code = process.wait(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return Status.TIMEOUT
    if code == -signal.SIGXCPU or code == -signal.SIGKILL:
        return Status.TIMEOUT
    return Status.OK if code == 0 else Status.FAILED


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the whole group, whether or not its leader still runs, and collect the leader."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _outcome(
    status: Status, texts: list[str], calls: Sequence[str] | None, wall_s: float
) -> Outcome:
    """Read the child's report: its layers on the first line, then one value for each call."""
    lines = texts[2].splitlines()
    try:
        layers = json.loads(lines[0]) if lines else {}
        values = [json.loads(line)["value"] for line in lines[1:]] if calls is not None else []
    except (ValueError, KeyError, TypeError):
        layers, values, status = {}, [], Status.FAILED
    if status is Status.OK and calls is not None and len(values) != len(calls):
        status = Status.FAILED
    return Outcome(status, texts[0], texts[1], values, wall_s, layers)
