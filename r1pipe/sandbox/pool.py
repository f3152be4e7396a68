"""Warm sandboxes for several threads at once."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from r1pipe.machine import usable_cores
from r1pipe.sandbox.session import Sandbox

MAX_SANDBOXES = 8

T = TypeVar("T")


class SandboxPool:
    """Up to `size` warm sandboxes; each is taken by one thread at a time."""

    def __init__(self, size: int, without: Collection[str] = ()) -> None:
        self.pid, self.size = os.getpid(), size
        self._without = frozenset(without)
        self._idle: list[Sandbox] = []
        self._all: list[Sandbox] = []
        self._lock = threading.Condition()
        self._threads: ThreadPoolExecutor | None = None

    @contextlib.contextmanager
    def taken(self) -> Iterator[Sandbox]:
        """Give a sandbox that nobody else uses, and wait for one if need be."""
        with self._lock:
            while not self._idle and len(self._all) >= self.size:
                self._lock.wait()
            if not self._idle:
                self._idle.append(Sandbox(self._without))
                self._all.append(self._idle[-1])
            sandbox = self._idle.pop()
        try:
            yield sandbox
        finally:
            with self._lock:
                self._idle.append(sandbox)
                self._lock.notify()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Do some work in a thread; as many at once as there are sandboxes."""
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self.size, "r1pipe-sandbox")
            return self._threads.submit(work)

    def close(self) -> None:
        """End all sandboxes."""
        for sandbox in self._all:
            sandbox.close()


_shared: list[SandboxPool] = []
_lock = threading.Lock()


def shared() -> SandboxPool:
    """Return this process's pool: a sandbox for each core it may use, `MAX_SANDBOXES` at most."""
    with _lock:
        if not _shared or _shared[-1].pid != os.getpid():
            _shared[:] = [SandboxPool(min(usable_cores(), MAX_SANDBOXES))]
        return _shared[-1]


@atexit.register
def close_shared() -> None:
    """End this process's sandboxes."""
    if _shared and _shared[-1].pid == os.getpid():
        _shared.pop().close()
