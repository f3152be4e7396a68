"""The process of one program: it reads what to run, confines itself, and becomes that program.

Expected results never enter it.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import sys
import threading
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypedDict

from r1pipe.sandbox import landlock, namespaces, seccomp, system
from r1pipe.sandbox.layers import FILES, SYSTEM_CALLS

_REPORT = 3
_NUM_HEADER = 8


@dataclass(frozen=True)
class Place:
    """What the programs of a warm sandbox share."""

    user: int
    """Their user, as the sandbox sees it."""
    held: Mapping[str, bool]
    """Namespaces by name."""
    libraries: tuple[str, ...]
    tools: tuple[str, ...]
    without: frozenset[str]
    """Layers to leave out."""


class Order(TypedDict):
    """What to run."""

    profile: seccomp.Profile
    program: str
    """Name of the program in the folder."""
    command: list[str] | None
    """What starts it; None is Python in this process."""
    calls: list[str] | None
    """Expressions to evaluate in a Python program afterwards."""
    limits: dict[str, int]
    """Resource limits by name."""
    processes: int
    """Most processes and threads, where they are counted for the sandbox alone."""
    environment: dict[str, str]
    files: dict[str, int]
    """Files of the folder by size, in the order in which their bytes follow; stdin is ''."""


def run_program(fds: Sequence[int], folder: str, place: Place) -> NoReturn:
    """Run the program behind the first descriptor; the others are its output, errors and report."""
    order, blobs = _read_order(fds[0])
    os.setsid()
    stdin = _prepare(folder, blobs, place)
    for number, fd in enumerate((stdin, *fds[1:])):
        os.dup2(fd, number, inheritable=number < _REPORT)
    os.closerange(_REPORT + 1, 256)
    held = confine(order, folder, place)
    os.write(_REPORT, json.dumps({"layers": held}).encode() + b"\n")
    os.environ.clear()
    os.environ.update(order["environment"] | {"HOME": folder, "TMPDIR": folder})
    if order["command"] is not None:
        words = [word.replace("{folder}", folder) for word in order["command"]]
        try:
            os.execv(words[0], words)  # noqa: S606 - no shell is wanted
        except OSError as error:
            os.write(2, f"{error}\n".encode())
        os._exit(127)
    source = blobs[order["program"]].decode("utf-8", "replace")
    _run_python(source, order["calls"])


def _read_order(fd: int) -> tuple[Order, dict[str, bytes]]:
    """Return what to run and the files that come with it."""
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        size = int.from_bytes(file.read(_NUM_HEADER), "big")
        order: Order = json.loads(file.read(size))
        blobs = {name: file.read(count) for name, count in order["files"].items()}
    return order, blobs


def _prepare(folder: str, blobs: Mapping[str, bytes], place: Place) -> int:
    """Become the programs' user, write the files, go to the folder; return what stdin reads."""
    if place.held["ipc"]:
        system.unshare(namespaces.NEWIPC)
    if place.user != os.geteuid():
        os.setgroups([])
        os.setresgid(place.user, place.user, place.user)
        os.setresuid(place.user, place.user, place.user)
    os.chdir(folder)
    for name, data in blobs.items():
        path = name or ".stdin"
        if os.path.dirname(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o700), "wb") as file:
            file.write(data)
    stdin = os.open(".stdin" if "" in blobs else "/dev/null", os.O_RDONLY)
    if "" in blobs:
        os.unlink(".stdin")
    return stdin


def confine(order: Order, folder: str, place: Place) -> dict[str, bool]:
    """Apply the layers that each program has for itself; return which of all hold."""
    limits = dict(order["limits"])
    if place.held["users"] and _counts_by_namespace():
        limits["RLIMIT_NPROC"] = order["processes"]
    for name, value in limits.items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    held = {**place.held, FILES: False, SYSTEM_CALLS: False}
    if not system.IS_LINUX:
        return held
    system.prctl(system.PR_SET_PDEATHSIG, 9)
    system.drop_capabilities()
    if not system.prctl(system.PR_SET_NO_NEW_PRIVS, 1):
        return held
    profile = order["profile"]
    if FILES not in place.without:
        more = 0 if profile == "python" else landlock.EXECUTE
        held[FILES] = landlock.restrict(_reached(profile, place), folder, more)
    if SYSTEM_CALLS not in place.without:
        held[SYSTEM_CALLS] = seccomp.restrict(profile)
    return held


def _counts_by_namespace() -> bool:
    """Return whether processes are counted for each user namespace: since Linux 5.14."""
    major, minor, *_ = os.uname().release.split(".")
    return (int(major), int(minor)) >= (5, 14)


def _reached(profile: seccomp.Profile, place: Place) -> list[tuple[str, int]]:
    """Return the paths outside its folder that a program reaches, with its rights."""
    more = 0 if profile == "python" else landlock.EXECUTE
    paths = [*namespaces.LIBRARIES, *place.libraries, namespaces.CACHE]
    if profile == "compiler":
        paths += [*namespaces.TOOLS, *place.tools]
    devices = [(path, landlock.READ | landlock.WRITE) for path in namespaces.DEVICES]
    return [*((path, landlock.READ | more) for path in paths), *devices]


def _run_python(source: str, calls: Sequence[str] | None) -> NoReturn:
    """Run a program as Python's own start would, then its calls; end as Python would end."""
    module = types.ModuleType("__main__")
    names = module.__dict__
    names["__builtins__"] = __builtins__
    for name in [name for name in sys.modules if name.split(".")[0] == "r1pipe"]:
        del sys.modules[name]
    sys.modules["__main__"] = module
    sys.argv[:] = ["program.py"]
    dumps, report, end, hook = json.dumps, _report, os._exit, sys.excepthook
    code = 0
    try:
        exec(compile(source, "program.py", "exec"), names)  # noqa: S102 - this is the sandbox
        for call in calls or ():
            value = dumps({"value": eval(call, names)})  # noqa: S307
            report(value.encode() + b"\n")
    except SystemExit as error:
        code = _code_of(error)
    except BaseException:  # noqa: BLE001 - any fault of the program
        code = 1
        hook(*sys.exc_info())
    end(_finish(code))


def _report(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(_REPORT, view) :]


def _code_of(error: SystemExit) -> int:
    """Return the exit status that Python gives for an exit; text is printed and means 1."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF if -(1 << 31) <= error.code < 1 << 31 else 0xFF
    sys.stderr.write(f"{error.code}\n")
    return 1


def _finish(code: int) -> int:
    """Wait for threads, run what was left for the end, and write out what is buffered."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001 - the program has replaced one of them
        return code or 120
    return code
