"""Confines its own process, then runs a program: `sandbox` starts it as a script.

Layers, each used where the system has it: resource limits, no new privileges, an own network
namespace, Landlock (files: read the Python library, write the working folder), and a seccomp
filter that refuses sockets, new processes, other programs, signals and tracing. The program's
expected results never enter this process.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import struct
import sys
from typing import TypedDict

SETUP_FAILED = 113
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _PR_SET_PDEATHSIG = 38, 22, 1
_CLONE_NEWUSER, _CLONE_NEWNET, _CLONE_THREAD = 0x10000000, 0x40000000, 0x00010000
_LANDLOCK = (444, 445, 446)  # create_ruleset, add_rule, restrict_self: the same on every machine
_READ, _WRITE = 0b1101, 0b1111111111110  # execute, read file and folder; the rest of ABI 1
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050001, 0x80000000  # 0x00050000 | EPERM

# Machine -> (audit number, refused system calls, clone, clone3). Refused, in this order: socket,
# socketpair, connect, bind, fork and vfork (x86 only), execve, execveat, kill, tkill, ptrace,
# mount, umount2, pivot_root, chroot, bpf, unshare, setns, setsid, setpgid, process_vm_readv and
# _writev, keyctl, userfaultfd, perf_event_open, io_uring_setup, memfd_create.
_X86_64 = (
    "41 53 42 49 57 58 59 322 62 200 101 165 166 155 161 321 272 308 112 109 310 311 250 323 298"
    " 425 319"
)
_AARCH64 = (
    "198 199 203 200 221 281 129 130 117 40 39 41 51 280 97 268 157 154 270 271 219 282 241 425 279"
)
_NUMBERS = {
    "x86_64": (0xC000003E, _X86_64, 56, 435),
    "aarch64": (0xC00000B7, _AARCH64, 220, 435),
}
_libc = ctypes.CDLL(None, use_errno=True)


class Settings(TypedDict):
    """The argument of this script, as JSON."""

    program: str
    """Path of the program."""
    folder: str
    """The only folder that it may write to."""
    readable: list[str]
    """The folders that it may read."""
    limits: dict[str, int]
    """Resource limits by name."""
    calls: list[str] | None
    """Expressions to evaluate in the program afterwards."""
    report_fd: int
    """File descriptor of the pipe for the report."""


def main(settings: Settings) -> None:
    """Confine this process as the settings say, then run the program."""
    applied = confine(settings)
    report = os.fdopen(settings["report_fd"], "w")
    report.write(json.dumps(applied) + "\n")
    report.flush()
    with open(settings["program"], encoding="utf-8") as file:
        source = file.read()
    code = compile(source, "program.py", "exec")
    names: dict[str, object] = {"__name__": "__main__"}
    if settings["calls"] is None:
        report.close()
        exec(code, names)  # noqa: S102 - this process is the sandbox
        return
    dumps, write = json.dumps, report.write
    exec(code, names)  # noqa: S102 - this process is the sandbox
    for call in settings["calls"]:
        write(dumps({"value": eval(call, names)}) + "\n")  # noqa: S307
        report.flush()


def confine(settings: Settings) -> dict[str, bool]:
    """Apply every layer and return which of them hold."""
    for name, value in settings["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    if sys.platform != "linux":
        return {"network": False, "files": False, "system_calls": False}
    _libc.prctl(_PR_SET_PDEATHSIG, 9)
    has_network = not _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return {"network": has_network, "files": False, "system_calls": False}
    files = landlock(settings["readable"], settings["folder"])
    return {"network": has_network, "files": files, "system_calls": seccomp()}


def landlock(readable: list[str], folder: str) -> bool:
    """Allow reading some folders and writing one; refuse every other file. False if missing."""
    handled = ctypes.create_string_buffer(struct.pack("<Q", _READ | _WRITE), 8)
    ruleset = _libc.syscall(_LANDLOCK[0], handled, 8, 0)
    if ruleset < 0:
        return False
    for path, access in [*((p, _READ) for p in readable), (folder, _READ | _WRITE)]:
        if not os.path.exists(path):
            continue
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        allowed = access if os.path.isdir(path) else access & 0b111
        rule = ctypes.create_string_buffer(struct.pack("<Qi", allowed, fd), 12)
        _libc.syscall(_LANDLOCK[1], ruleset, 1, rule, 0)
        os.close(fd)
    done = bool(_libc.syscall(_LANDLOCK[2], ruleset, 0) == 0)
    os.close(ruleset)
    return done


def seccomp() -> bool:
    """Refuse system calls that a solution has no use for. False if the machine is unknown."""
    known = _NUMBERS.get(os.uname().machine)
    if known is None:
        return False
    audit, refused, clone, clone3 = known
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    rules = [(load, 0, 0, 4), (equal, 1, 0, audit), (give, 0, 0, _KILL), (load, 0, 0, 0)]
    rules += [(at_least, 0, 1, 0x40000000), (give, 0, 0, _KILL)]  # the x32 twins of x86-64
    for number in map(int, refused.split()):
        rules += [(equal, 0, 1, number), (give, 0, 0, _REFUSE)]
    rules += [(equal, 0, 1, clone3), (give, 0, 0, 0x00050026)]  # ENOSYS: glibc falls back to clone
    rules += [(equal, 0, 3, clone), (load, 0, 0, 16), (any_bit, 1, 0, _CLONE_THREAD)]
    rules += [(give, 0, 0, _REFUSE), (give, 0, 0, _ALLOW)]
    body = b"".join(struct.pack("<HBBI", *rule) for rule in rules)
    buffer = ctypes.create_string_buffer(body, len(body))
    program = struct.pack("<HxxxxxxQ", len(rules), ctypes.addressof(buffer))
    program_buffer = ctypes.create_string_buffer(program, len(program))
    return bool(_libc.prctl(_PR_SET_SECCOMP, 2, program_buffer, 0, 0) == 0)


if __name__ == "__main__":
    try:
        given = json.loads(sys.argv[1])
    except (IndexError, ValueError):
        os._exit(SETUP_FAILED)
    main(given)
