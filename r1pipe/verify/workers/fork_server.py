"""The child side of the pool: a warm single-threaded process that forks workers on demand.

It is started with exec, so nothing of the caller (threads, CUDA, event loops) reaches it. It reads
commands from its control socket: `spawn` (with the worker's socket attached) and `kill PID`. When
that socket closes, it kills its workers and ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import signal
import socket
import sys
from types import FrameType, ModuleType

from r1pipe.records import Verdict

MEMORY_BYTES = 3 << 30
RECYCLE_BYTES = 400 << 20
_PR_SET_PDEATHSIG = 1


class OutOfTimeError(BaseException):
    """The worker's own timer rang; not an Exception, so that no library swallows it."""


def main(control_fd: int, verifier: ModuleType) -> None:
    """Serve the control socket until it closes.

    The verifier is a module: its `warm_up()` runs once, its `read_gold(gold)` fills the cache that
    its `verdict(gold, answer)` reads.
    """
    control = socket.socket(fileno=control_fd)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller to handle
    with contextlib.redirect_stdout(sys.stderr):
        verifier.warm_up()
    control.sendall(b"ready\n")
    workers: set[int] = set()
    while True:
        message, fds, _, _ = socket.recv_fds(control, 256, 1)
        if not message:
            break
        command = message.decode().split()
        if command[0] == "spawn":
            pid = _fork_worker(fds[0], control, verifier)
            workers.add(pid)
            control.sendall(f"{pid}\n".encode())
        else:
            _reap(int(command[1]), workers)
            control.sendall(b"reaped\n")
    for pid in list(workers):
        _reap(pid, workers)


def _reap(pid: int, workers: set[int]) -> None:
    """Kill a worker's process group and collect it; its pid cannot be another's until then."""
    if pid not in workers:
        return
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    workers.discard(pid)


def _fork_worker(fd: int, control: socket.socket, verifier: ModuleType) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        os.close(fd)
        return pid
    try:
        control.close()
        _confine(parent)
        _serve(socket.socket(fileno=fd), verifier)
    finally:
        os._exit(0)


def _confine(parent: int) -> None:
    """Own process group, memory limit, no core file, and death with the fork server."""
    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    signal.signal(signal.SIGALRM, _ring)


def _ring(signum: int, frame: FrameType | None) -> None:
    raise OutOfTimeError


def _serve(channel: socket.socket, verifier: ModuleType) -> None:
    """Answer one pair at a time until the caller closes the channel or memory has grown."""
    for line in channel.makefile("rb"):
        gold, answer, limit_s = json.loads(line)
        _limit_cpu(limit_s)
        result = _verdict(verifier, gold, answer, limit_s)
        channel.sendall(json.dumps(result).encode() + b"\n")
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > RECYCLE_BYTES:
            return  # the caller sees the end of file and asks for a fresh worker


def _limit_cpu(limit_s: float) -> None:
    """Bound the CPU seconds of this pair, should the caller be unable to kill."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(usage.ru_utime + usage.ru_stime + 2 * limit_s) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def _verdict(verifier: ModuleType, gold: str, answer: str, limit_s: float) -> str:
    """Return the verdict of one pair; the timer rings before the caller's deadline."""
    fault = late = Verdict.GOLD_UNUSABLE.value  # as long as only the gold answer has been read
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.8 * limit_s)
        verifier.read_gold(gold)
        fault, late = "crashed", "timeout"
        return str(verifier.verdict(gold, answer))
    except OutOfTimeError:
        return late
    except (Exception, RecursionError, MemoryError):  # noqa: BLE001 - model text
        return fault
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), importlib.import_module(sys.argv[2]))
