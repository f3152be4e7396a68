"""Namespaces of a warm sandbox: who it is, what it sees, and the folder of each program (Linux).

The root folder of a full sandbox is empty but for the Python library, shared libraries, compilers
and three devices, all read-only; site-packages are covered.
"""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Collection, Sequence

from r1pipe.sandbox import system

NOBODY = 65534
FOLDER = "/box"
"""Where each program finds its folder."""
EMPTY = "/tmp"  # noqa: S108 - nothing is left there: a file system of memory covers it
"""Where the new root is put together."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
LIBRARIES = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/usr/share/zoneinfo")
TOOLS = ("/usr/bin", "/usr/include", "/usr/local/include", "/usr/libexec", "/bin")
CACHE = "/etc/ld.so.cache"
_FLAGS = {
    "users": 0x10000000,
    "mounts": 0x00020000,
    "processes": 0x20000000 | 0x04000000 | 0x02000000,  # with UTS and cgroup
    "ipc": 0x08000000,
    "network": 0x40000000,
}
NEWPID, NEWIPC = 0x20000000, 0x08000000


def enter(wanted: Collection[str]) -> int:
    """Leave for namespaces of its own; return the user that programs have. Raises OSError.

    A program of root's runs as nobody: both are mapped by a process that stays outside. Where that
    may not be, and for any other user, the one user is mapped to 0 without capabilities.
    """
    flags = 0
    for name in wanted:
        flags |= _FLAGS[name]
    user, group = os.geteuid(), os.getegid()
    if "users" not in wanted:
        if flags:
            system.unshare(flags)
        return user
    told, tell = os.pipe()
    parent, helper = os.getpid(), os.fork() if user == 0 else 0
    if user == 0 and helper == 0:
        os.close(tell)
        os._exit(_map_from_outside(told, parent))
    system.unshare(flags)
    os.close(tell)
    os.close(told)
    if helper and os.waitpid(helper, 0)[1] == 0:
        return NOBODY
    with contextlib.suppress(FileNotFoundError):
        _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"0 {user} 1")
    _write("/proc/self/gid_map", f"0 {group} 1")
    return 0


def _map_from_outside(told: int, pid: int) -> int:
    """Map root and nobody of a process once it has left; return an exit status."""
    os.read(told, 1)  # closed: it has
    try:
        for name in ("uid_map", "gid_map"):
            _write(f"/proc/{pid}/{name}", f"0 0 1\n{NOBODY} {NOBODY} 1")
    except OSError:
        return 1
    return 0


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def build_root(libraries: Sequence[str], tools: Sequence[str]) -> None:
    """Make a root folder of what programs need, and go there. Raises OSError."""
    system.mount_private()
    system.mount("tmpfs", EMPTY, "tmpfs", system.MS_NOSUID | system.MS_NODEV, "size=1m,mode=755")
    os.mkdir(f"{EMPTY}/old")
    os.chdir(EMPTY)
    system.pivot_root(".", "old")
    os.chdir("/")
    os.mkdir(FOLDER)
    os.mkdir("/empty")
    for path in (*LIBRARIES, *libraries, *TOOLS, *tools, *DEVICES, CACHE):
        _show(path)
    for path in _packages(libraries):
        system.bind("/empty", path)
    system.unmount("/old")
    os.rmdir("/old")
    system.read_only("/", is_tree=False)


def _show(path: str) -> None:
    """Show a path of the old root at the same place; links stay links."""
    source = f"/old{path}"
    if os.path.lexists(path) or not os.path.lexists(source):
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.islink(source):
        os.symlink(os.readlink(source), path)
    elif os.path.isdir(source):
        os.mkdir(path)
        system.bind(source, path)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        system.bind(source, path, has_devices=path in DEVICES)


def _packages(libraries: Sequence[str]) -> list[str]:
    """Return the folders of installed packages, which are no part of the standard library."""
    found = set[str]()
    for base in (*LIBRARIES, *libraries):
        for pattern in ("*-packages", "python3*/*-packages"):
            found.update(map(os.path.realpath, glob.glob(f"{base}/{pattern}")))
    return sorted(path for path in found if os.path.isdir(path))


def open_folder(user: int, total_bytes: int) -> None:
    """Make the folder of the next program, empty and of a limited size. Raises OSError."""
    options = f"size={total_bytes},nr_inodes=8192,mode=700,uid={user},gid={user}"
    system.mount("tmpfs", FOLDER, "tmpfs", system.MS_NOSUID | system.MS_NODEV, options)


def close_folder() -> None:
    """Take the folder away with all that is in it. Raises OSError."""
    system.unmount(FOLDER)
