"""Run something in a forked child that may be killed."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

KILLED = -signal.SIGKILL


def start(function: Callable[[], object], fault: str | None = None) -> int:
    """Fork a child that calls `function`, with a fault asked for; return its pid."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.environ.pop("R1PIPE_FAULT", None)
        if fault is not None:
            os.environ["R1PIPE_FAULT"] = fault
        function()
        code = 0
    except BaseException as error:  # noqa: BLE001 - the exit code tells the parent
        code = getattr(error, "exit_code", 1)
        if not hasattr(error, "exit_code"):
            traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int) -> int:
    """Return how a child ended: its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def call(function: Callable[[], object], fault: str | None = None) -> int:
    """Fork, call, wait."""
    return wait(start(function, fault))


@contextmanager
def running(function: Callable[[], object]) -> Iterator[int]:
    """Have a child running inside the block; it is killed at the end if it still lives."""
    pid = start(function)
    try:
        yield pid
    finally:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def stat_of(pid: int) -> list[str]:
    """Return what the system says of a process after its name, which may hold spaces: its state,
    its parent, and more; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def is_running(pid: int) -> bool:
    """Return whether a process is there and is more than an exit code."""
    return stat_of(pid)[:1] not in ([], ["Z"])
