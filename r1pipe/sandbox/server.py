"""A warm sandbox: a process in namespaces of its own that forks a process for every program.

`warm` starts it with exec, through bubblewrap where that is installed. It reads jobs from its
control socket, one at a time: a line of JSON and four file descriptors. The program and its input
are behind the first of these, which only the forked process reads, so no program ever finds
another's text in its memory. When the socket closes, this process ends, and with it all of them.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import TypedDict

from r1pipe.sandbox import namespaces, system
from r1pipe.sandbox.layers import NAMESPACES
from r1pipe.sandbox.program import Place, run_program

WARM = (
    "array bisect collections contextlib copy dataclasses datetime decimal enum fractions functools"
    " heapq io itertools json math operator os random re statistics string struct threading time"
    " traceback typing"
)
"""Modules of the standard library that are imported once for all programs."""
MAX_MESSAGE_BYTES = 1 << 16
NUM_FDS = 4
_POLL_S = 0.0005


class Settings(TypedDict):
    """What a warm sandbox is started with."""

    without: list[str]
    """Layers to leave out."""
    root: str
    """Folder of this package, which no program is to import."""
    tools: list[str]
    """Folders of compilers that are not among the system's."""


class Job(TypedDict):
    """What the server itself knows of a program."""

    total_bytes: int
    """Limit on all files of its folder together."""
    fetch: list[str]
    """Files of the folder to send back."""
    fetch_bytes: int
    """Most bytes of each."""


@dataclass(frozen=True)
class Warm:
    """A sandbox that is ready: its place, and the namespace that programs' own are made in."""

    place: Place
    own_pids: int | None
    """This process's namespace of processes; None where programs share it."""


def main(control_fd: int) -> None:
    """Enter the namespaces, say which layers hold, and serve the control socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller to handle
    control = socket.socket(fileno=control_fd)
    settings: Settings = json.loads(control.recv(MAX_MESSAGE_BYTES))
    sys.path[:] = [path for path in sys.path if path and path != settings["root"]]
    for name in WARM.split():
        __import__(name)
    try:
        warm = _settle(settings)
    except OSError as error:
        _send(control, {"error": str(error)})
        return
    _send(control, {"layers": warm.place.held})
    gc.collect()
    gc.freeze()
    while True:
        message, fds = _next(control)
        if not message:
            return
        _serve(control, json.loads(message), fds, warm)


def _settle(settings: Settings) -> Warm:
    """Enter the namespaces and build the root folder. Raises OSError where that may not be."""
    without = set(settings["without"])
    wanted = [name for name in NAMESPACES if name not in without] if system.IS_LINUX else []
    libraries = [path for path in sys.path if os.path.isdir(path)]
    if sys.base_prefix != "/usr":
        libraries.insert(0, os.path.join(sys.base_prefix, "lib"))
    user, own_pids = namespaces.enter(wanted), None
    if "processes" in wanted:
        _become_first()
        own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY)
    if "mounts" in wanted:
        namespaces.build_root(libraries, settings["tools"])
    held = {name: name in wanted for name in NAMESPACES}
    if system.IS_LINUX:
        system.prctl(system.PR_SET_DUMPABLE, 0)
    place = Place(user, held, tuple(libraries), tuple(settings["tools"]), frozenset(without))
    return Warm(place, own_pids)


def _become_first() -> None:
    """Go on as the first process of the new namespace; the old one waits and ends with it."""
    pid = os.fork()
    if pid:
        os.closerange(3, 64)
        _, status = os.waitpid(pid, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    system.prctl(system.PR_SET_PDEATHSIG, signal.SIGKILL)


def _next(control: socket.socket) -> tuple[bytes, list[int]]:
    """Return the caller's next message and its file descriptors; nothing once it is gone."""
    try:
        message, fds, _, _ = socket.recv_fds(control, MAX_MESSAGE_BYTES, NUM_FDS)
    except ConnectionError:
        return b"", []
    return message, fds


def _serve(control: socket.socket, job: Job, fds: list[int], warm: Warm) -> None:
    """Run one program: fork it, wait as long as the caller says, send back how it ended."""
    folder, error = _open_folder(warm.place, job["total_bytes"])
    pid, files = 0, dict[str, bytes]()
    try:
        pid = _fork(control, fds, folder, warm) if folder else 0
    except OSError as failure:
        error = str(failure)
    for fd in fds:
        os.close(fd)
    message, _ = _next(control)
    if not message and pid:
        _kill(pid)
    code, is_late = _wait(pid, float(message or 0)) if pid else (1, False)
    if folder:
        for name in job["fetch"]:
            if (data := _read(folder, name, job["fetch_bytes"])) is not None:
                files[name] = data
        _close_folder(warm.place, folder)
    sizes = {name: len(data) for name, data in files.items()}
    _send(control, {"code": code, "late": is_late, "error": error, "files": sizes})
    control.sendall(b"".join(files.values()))


def _fork(control: socket.socket, fds: list[int], folder: str, warm: Warm) -> int:
    """Fork the process of a program, the first of a namespace of its own; return its number."""
    if warm.own_pids is not None:
        system.setns(warm.own_pids, namespaces.NEWPID)
        system.unshare(namespaces.NEWPID)
    pid = os.fork()
    if pid:
        if warm.own_pids is not None:  # what else is forked here is not the program's
            system.setns(warm.own_pids, namespaces.NEWPID)
        return pid
    try:
        control.close()
        run_program(fds, folder, warm.place)
    finally:
        os._exit(1)


def _wait(pid: int, patience_s: float) -> tuple[int, bool]:
    """Return how a program ended, and whether it had to be killed: it may take so long, no more."""
    deadline, is_late = time.monotonic() + patience_s, False
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), is_late
        if time.monotonic() >= deadline:
            is_late = True
            _kill(pid)
        time.sleep(_POLL_S)


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _open_folder(place: Place, total_bytes: int) -> tuple[str, str]:
    """Make the folder of a program; return it, or why there is none."""
    try:
        if place.held["mounts"]:
            namespaces.open_folder(place.user, total_bytes)
            return namespaces.FOLDER, ""
        folder = tempfile.mkdtemp(prefix="r1pipe-sandbox-")
        if place.user != os.geteuid():
            os.chown(folder, place.user, place.user)
    except OSError as error:
        return "", str(error)
    return folder, ""


def _close_folder(place: Place, folder: str) -> None:
    """Remove a program's folder, however deep it has become."""
    if place.held["mounts"]:
        namespaces.close_folder()
    else:
        subprocess.run(["/bin/rm", "-rf", "--", folder], check=False, stderr=subprocess.DEVNULL)


def _read(folder: str, name: str, max_bytes: int) -> bytes | None:
    """Return a file that a program wrote; None for a link, a pipe, or one that is too large."""
    try:
        fd = os.open(os.path.join(folder, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > max_bytes:
            return None
        with os.fdopen(os.dup(fd), "rb") as file:
            return file.read(max_bytes)
    except OSError:
        return None
    finally:
        os.close(fd)


def _send(control: socket.socket, value: dict[str, object]) -> None:
    control.sendall(json.dumps(value).encode() + b"\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
