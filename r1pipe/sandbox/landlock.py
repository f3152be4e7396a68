"""Landlock: which files a process can reach, to the newest ABI that the kernel has.

1: reading and writing; 2: moving between folders; 3: truncation; 4: TCP; 5: ioctl of devices;
6: signals and abstract sockets stay among the confined.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

from r1pipe.sandbox.system import IS_LINUX, libc

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same on every machine
EXECUTE, WRITE, READ = 1 << 0, 1 << 1, 1 << 2 | 1 << 3
_FILE_RIGHTS = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14
_DEVICES = 1 << 6 | 1 << 9 | 1 << 11  # making devices and sockets
_IOCTL = 1 << 15


def abi() -> int:
    """Return the kernel's version of Landlock; 0 where there is none."""
    found = libc.syscall(_CREATE, None, 0, 1) if IS_LINUX else 0
    return max(0, int(found))


def rights_of(version: int) -> int:
    """Return the rights to files that a version knows of."""
    known = (1 << 13) - 1
    for since, right in ((2, 1 << 13), (3, 1 << 14), (5, _IOCTL)):
        known |= right if version >= since else 0
    return known


def restrict(reached: Iterable[tuple[str, int]], folder: str, more: int = 0) -> bool:
    """Let this process reach some paths, each by its rights, and write one folder. False if absent.

    `more` is what it may do in the folder beside reading and writing (EXECUTE).
    """
    version = abi()
    if version < 1:
        return False
    known = rights_of(version)
    values = [known, 3 if version >= 4 else 0, 3 if version >= 6 else 0]
    handled = struct.pack("<QQQ", *values)[: 24 if version >= 6 else 16 if version >= 4 else 8]
    ruleset = libc.syscall(
        _CREATE, ctypes.create_string_buffer(handled, len(handled)), len(handled), 0
    )
    if ruleset < 0:
        return False
    in_folder = known & ~(_DEVICES | _IOCTL | EXECUTE) | more
    for path, rights in [*reached, (folder, in_folder)]:
        _allow(ruleset, path, rights & known)
    done = bool(libc.syscall(_RESTRICT, ruleset, 0) == 0)
    os.close(ruleset)
    return done


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # not there: nothing to reach
    allowed = rights if os.path.isdir(path) else rights & _FILE_RIGHTS
    rule = ctypes.create_string_buffer(struct.pack("<Qi", allowed, fd), 12)
    libc.syscall(_ADD, ruleset, 1, rule, 0)
    os.close(fd)
