"""Calls of the C library and the kernel that Python has no function for (Linux)."""

from __future__ import annotations

import ctypes
import os
import struct
import sys

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP = 1, 4, 24
PR_SET_SECCOMP, PR_SET_SECUREBITS, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 22, 28, 38, 47
_CAPSET = {"x86_64": 126, "aarch64": 91}
_MOUNT_SETATTR = 442  # the same on every machine
_MS_BIND, _MS_REC, _MS_PRIVATE, _MNT_DETACH = 0x1000, 0x4000, 0x40000, 2
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000

libc = ctypes.CDLL(None, use_errno=True)
IS_LINUX = sys.platform == "linux"


def _checked(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def prctl(*values: int) -> bool:
    """Call prctl; return whether it succeeded."""
    return bool(libc.prctl(*map(ctypes.c_ulong, (*values, *[0] * (5 - len(values))))) == 0)


def unshare(flags: int) -> None:
    """Leave namespaces for new ones. Raises OSError."""
    _checked(libc.unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    """Enter a namespace. Raises OSError."""
    _checked(libc.setns(fd, kind), "setns")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """Mount a file system. Raises OSError."""
    words = [each.encode() for each in (source, target, kind)]
    _checked(libc.mount(*words, ctypes.c_ulong(flags), options.encode()), f"mount {target}")


def mount_private() -> None:
    """Let no mount made here be seen outside. Raises OSError."""
    mount("none", "/", "", _MS_REC | _MS_PRIVATE)


def bind(source: str, target: str, *, has_devices: bool = False) -> None:
    """Show a file or a folder, read-only, at a second place. Raises OSError."""
    mount(source, target, "", _MS_BIND | _MS_REC)
    read_only(target, has_devices=has_devices)


def read_only(target: str, *, has_devices: bool = False, is_tree: bool = True) -> None:
    """Make mounts read-only, without set-user-id programs and devices. Raises OSError."""
    chosen = _ATTR_RDONLY | _ATTR_NOSUID | (0 if has_devices else _ATTR_NODEV)
    attributes = ctypes.create_string_buffer(struct.pack("<QQQQ", chosen, 0, 0, 0), 32)
    depth = _AT_RECURSIVE if is_tree else 0
    done = libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, target.encode(), depth, attributes, 32)
    _checked(done, f"mount_setattr {target}")


def unmount(target: str) -> None:
    """Take a mount away, whoever still uses it. Raises OSError."""
    _checked(libc.umount2(target.encode(), _MNT_DETACH), f"umount {target}")


def pivot_root(new: str, old: str) -> None:
    """Make `new` the root and show the old one at `old`. Raises OSError."""
    number = {"x86_64": 155, "aarch64": 41}[os.uname().machine]
    _checked(libc.syscall(number, new.encode(), old.encode()), "pivot_root")


def drop_capabilities() -> None:
    """Give up every capability for good, also for programs started later."""
    for number in range(64):
        prctl(PR_CAPBSET_DROP, number)
    prctl(PR_CAP_AMBIENT, 4)  # clear all
    prctl(PR_SET_SECUREBITS, 0b101111)  # no powers for user 0, locked
    call = _CAPSET.get(os.uname().machine)
    if call is not None:
        header = ctypes.create_string_buffer(struct.pack("<Ii", 0x20080522, 0), 8)
        libc.syscall(call, header, ctypes.create_string_buffer(24))
