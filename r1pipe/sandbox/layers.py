"""The layers of the sandbox by name, and what follows where one is missing."""

from __future__ import annotations

from collections.abc import Collection, Mapping

NAMESPACES = ("users", "mounts", "processes", "ipc", "network")
"""Namespaces of the kernel: no capabilities and, for root, another user; a root folder of its own;
no other process in sight; System V and POSIX queues and shared memory of its own; no interface."""
FILES, SYSTEM_CALLS, OUTER = "files", "system_calls", "bubblewrap"
REQUIRED = (*NAMESPACES, FILES, SYSTEM_CALLS)
"""The layers that a full sandbox has; bubblewrap around it is one more where it is installed."""

LOST = {
    "users": "a program keeps the rights of this user",
    "mounts": "a program sees this machine's folders, and the total of its files has no limit",
    "processes": "a program sees other processes",
    "ipc": "a program can leave shared memory and queues behind",
    "network": "a program is not cut off from the network",
    "files": "a program reaches all files that its user does (no Landlock)",
    "system_calls": "a program may make any system call (no seccomp filter)",
}
"""What is missing with each layer, in words."""


def missing(layers: Mapping[str, bool]) -> list[str]:
    """Return the required layers that do not hold."""
    return [name for name in REQUIRED if not layers.get(name)]


def lost(names: Collection[str]) -> str:
    """Return what is not defended without some layers, in words."""
    return "; ".join(f"{name}: {LOST[name]}" for name in REQUIRED if name in names)
