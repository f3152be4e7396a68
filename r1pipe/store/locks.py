"""One lock per key: the second run of a key waits, then finds the result.

The lock is the kernel's (`flock`), so it goes with its process; filelock closes it in children that
Python forks, and a child that is started by exec never has it. What is left is a child forked by
other means that outlives its parent with the lock's handle: the owner's pid in a file beside the
lock tells, and such a lock is replaced. Owners change under a second lock, the gate, so that two
processes cannot both replace it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast

from r1pipe.regular import parse_json, read_regular
from r1pipe.store import disk

if TYPE_CHECKING:
    from filelock import FileLock

POLL_S = 0.1
GATE_S = 30.0
MAX_OWNER_BYTES = 1 << 16


def file_lock(path: Path, timeout: float = -1) -> FileLock:
    """Return a kernel lock on a file; imported here, since a run that only hits takes none."""
    from filelock import FileLock

    return FileLock(path, timeout, is_singleton=False)


class Owner(TypedDict, total=False):
    """A process that holds a lock; empty if its file is not readable."""

    pid: int
    host: str
    boot: str
    """Id of the host's boot."""
    born: str
    """When the process started, so that a later one with its pid is not taken for it."""


class LockBusy(Exception):  # noqa: N818 - an answer, not an error for users
    """Another living process holds the lock; `owner` says which."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        super().__init__(describe_owner(owner))


def describe_owner(owner: Owner) -> str:
    """Return `process 123 on host`, or what is known of it."""
    return f"process {owner.get('pid', '(unknown)')} on {owner.get('host', 'an unknown host')}"


class KeyLock:
    """A lock named by a key inside a folder; not reentrant."""

    def __init__(self, folder: Path, key: str) -> None:
        self.path = folder / f"{key}.lock"
        self.owner_path = folder / f"{key}.owner"
        self._gate = file_lock(folder / "gate.lock", GATE_S)
        self._lock: FileLock | None = None

    @contextmanager
    def held(
        self,
        on_wait: Callable[[Owner], None] = lambda owner: None,
        on_poll: Callable[[], None] = lambda: None,
    ) -> Iterator[None]:
        """Hold the lock; tells `on_wait` once who has it, and calls `on_poll` while waiting."""
        has_told = False
        while True:
            try:
                self.acquire()
                break
            except LockBusy as busy:
                if not has_told:
                    on_wait(busy.owner)
                    has_told = True
                on_poll()
                time.sleep(POLL_S)
        try:
            yield
        finally:
            self.release()

    def acquire(self) -> None:
        """Take the lock or raise LockBusy; takes it from an owner that no longer lives."""
        from filelock import Timeout

        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._gate:
                self._lock = self._take()
                self._write_owner()
        except Timeout:
            raise LockBusy(read_owner(self.owner_path)) from None

    def _write_owner(self) -> None:
        """Say who holds the lock; on a full disk nobody, but never one who held it before."""
        try:
            disk.place_json(self.owner_path, this_process(), durable=False)
        except OSError:
            self.owner_path.unlink(missing_ok=True)

    def _take(self) -> FileLock:
        from filelock import Timeout

        lock = file_lock(self.path)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if is_alive(read_owner(self.owner_path)):
                raise
            with suppress(FileNotFoundError):
                self.path.unlink()
            lock = file_lock(self.path)
            lock.acquire(blocking=False)
        return lock

    def release(self) -> None:
        """Release the lock and remove its files."""
        from filelock import Timeout

        assert self._lock is not None, "the lock is not held"
        with suppress(Timeout), self._gate:
            for path in (self.owner_path, self.path):
                with suppress(OSError):
                    path.unlink()
        self._lock.release()
        self._lock = None


def this_process() -> Owner:
    """Return what identifies this process for as long as the machine is up."""
    pid = os.getpid()
    return {"pid": pid, "host": os.uname().nodename, "boot": _boot(), "born": _born(pid)}


def read_owner(path: Path) -> Owner:
    """Return the owner written at `path`, or an empty one."""
    with suppress(OSError, ValueError):
        value = parse_json(read_regular(path, MAX_OWNER_BYTES))
        if isinstance(value, dict):
            return cast(Owner, value)
    return {}


def is_alive(owner: Owner) -> bool:
    """Return whether an owner may still live; one on another host is taken to."""
    pid = owner.get("pid")
    if not isinstance(pid, int) or owner.get("host") != os.uname().nodename:
        return True
    if owner.get("boot") != _boot():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return bool(owner.get("born") == _born(pid))


def _boot() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def _born(pid: int) -> str:
    """Return the start time of a process in clock ticks since boot: pids are used again.

    A zombie has ended, whatever its pid says; it was never born.
    """
    with suppress(OSError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return "zombie" if stat[0] == "Z" else stat[19]
    return ""
