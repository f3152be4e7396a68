"""A pool of killable workers for the pairs that need algebra.

A warm fork server (`fork_server`) forks workers; each has one pair in flight on its own socket. The
caller's side, one thread here, owns the deadline: a worker that misses it is killed with its
process group and replaced. Results are `concurrent.futures.Future`s, so threads wait on them and
asyncio wraps them. Thread time limits cannot do this: a big integer power keeps the interpreter
lock, and the whole process hangs with it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import r1pipe
from r1pipe.errors import StageError
from r1pipe.machine import usable_cores
from r1pipe.records import Verdict

DEFAULT_LIMIT_S = 3.0
START_LIMIT_S = 120.0
SYMBOLIC = "r1pipe.verify.workers.symbolic"
_POLL_S = 0.5


class Promise(Future[Verdict]):
    """A future verdict; once it is there, `elapsed_s` is the time since a worker took the pair."""

    elapsed_s: float = 0.0


@dataclass
class _Task:
    gold: str
    answer: str
    limit_s: float
    future: Promise


@dataclass
class _Worker:
    pid: int
    channel: socket.socket
    replies: BinaryIO | None = None
    task: _Task | None = None
    started: float = 0.0
    deadline: float = 0.0

    def close(self) -> None:
        """Close both ends of its use: a socket stays open as long as a file on it does."""
        if self.replies is not None:
            self.replies.close()
        self.channel.close()


class Pool:
    """Verifies (gold, answer) pairs in killable processes; safe to share between threads.

    `verifier` is the name of a module as `fork_server.main` takes one.
    """

    def __init__(self, num_workers: int, verifier: str = SYMBOLIC) -> None:
        self.num_workers = num_workers
        self.verifier = verifier
        self.pid = os.getpid()
        self._tasks: deque[_Task] = deque()
        self._lock = threading.Lock()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="r1pipe-verify", daemon=True)
        self._thread.start()

    def submit(self, gold: str, answer: str, limit_s: float = DEFAULT_LIMIT_S) -> Promise:
        """Queue one pair; its time limit counts from the moment a worker takes it."""
        task = _Task(gold, answer, limit_s, Promise())
        with self._lock:
            if self._is_closed:
                raise StageError("verify: the pool is closed; start another one")
            self._tasks.append(task)
        self._wake()
        return task.future

    def close(self) -> None:
        """Stop the workers; pairs that still wait are cancelled."""
        with self._lock:
            self._is_closed = True
        if self.pid == os.getpid():
            self._wake()
            self._thread.join(timeout=10)

    def _wake(self) -> None:
        """Wake the dispatcher; a full buffer means that it is already due to wake."""
        with contextlib.suppress(OSError):
            self._wake_in.send(b"w")

    def forget(self) -> None:
        """Drop the sockets that a forked child inherited, so that the fork server sees its end."""
        for sock in (self._wake_in, self._wake_out):
            sock.close()
        dispatcher = getattr(self, "_dispatcher", None)
        if dispatcher is not None:
            dispatcher.drop_sockets()

    def _run(self) -> None:
        self._dispatcher = _Dispatcher(self)
        try:
            self._dispatcher.serve()
        except BaseException as error:  # noqa: BLE001 - every waiting task raises it
            with self._lock:
                self._is_closed = True
            text = str(error) if isinstance(error, StageError) else f"verify: {error!r}"
            for task in self._dispatcher.unfinished():
                task.future.set_exception(StageError(text))
        finally:
            self._dispatcher.stop()

    def take(self) -> _Task | None:
        """Return the next pair for a worker (the dispatcher calls this)."""
        with self._lock:
            while self._tasks:
                task = self._tasks.popleft()
                if task.future.set_running_or_notify_cancel():
                    return task
        return None

    @property
    def is_closed(self) -> bool:
        """True once the pool takes no more pairs."""
        return self._is_closed


class _Dispatcher:
    """Runs in the pool's one thread: hands out pairs, collects verdicts, kills the late."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.fork_server: subprocess.Popen[bytes] | None = None
        self.control: socket.socket | None = None
        self.replies: BinaryIO | None = None
        self.workers: list[_Worker] = []
        self.selector = selectors.DefaultSelector()
        self.selector.register(pool._wake_out, selectors.EVENT_READ, None)

    def serve(self) -> None:
        while not self.pool.is_closed:
            self._hand_out()
            for key, _ in self.selector.select(self._patience()):
                if key.data is None:
                    self.pool._wake_out.recv(1 << 16)
                else:
                    self._collect(key.data)
            now = time.monotonic()
            for worker in list(self.workers):
                if worker.task is not None and now >= worker.deadline:
                    self._replace(worker, Verdict.TIMEOUT)
        for task in self.unfinished():
            task.future.cancel()

    def unfinished(self) -> list[_Task]:
        """Return the pairs that were taken or queued and have no verdict."""
        running = [worker.task for worker in self.workers if worker.task is not None]
        queued = []
        while (task := self.pool.take()) is not None:
            queued.append(task)
        return [task for task in (*running, *queued) if not task.future.done()]

    def _patience(self) -> float | None:
        deadlines = [worker.deadline for worker in self.workers if worker.task is not None]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _hand_out(self) -> None:
        while (worker := self._idle_worker()) is not None:
            task = self.pool.take()
            if task is None:
                return
            worker.task = task  # whatever fails from here on, `unfinished` has it
            if worker.pid == 0:
                self._spawn(worker)
            worker.started = time.monotonic()
            worker.deadline = worker.started + task.limit_s
            request = json.dumps([task.gold, task.answer, task.limit_s]).encode() + b"\n"
            try:
                worker.channel.sendall(request)
            except OSError:  # it ended between two pairs; the next one takes over
                self._respawn(worker)
                worker.channel.sendall(request)

    def _idle_worker(self) -> _Worker | None:
        for worker in self.workers:
            if worker.task is None:
                return worker
        if len(self.workers) < self.pool.num_workers:
            self.workers.append(_Worker(0, self.pool._wake_out))
            return self.workers[-1]
        return None

    def _collect(self, worker: _Worker) -> None:
        assert worker.replies is not None, "it has been spawned"
        line = b""
        with contextlib.suppress(OSError):
            line = worker.replies.readline()
        if line.endswith(b"\n"):
            self._finish(worker, Verdict(json.loads(line)))
        else:
            self._replace(worker, Verdict.CRASHED)

    def _finish(self, worker: _Worker, verdict: Verdict) -> None:
        task, worker.task = worker.task, None
        if task is not None:
            task.future.elapsed_s = time.monotonic() - worker.started
            task.future.set_result(verdict)

    def _replace(self, worker: _Worker, verdict: Verdict) -> None:
        """Kill a worker, settle its pair, and fork another in its place."""
        self._finish(worker, verdict)
        self._respawn(worker)

    def _respawn(self, worker: _Worker) -> None:
        self.selector.unregister(worker.channel)
        worker.close()
        self._ask(f"kill {worker.pid}")
        self._spawn(worker)

    def _spawn(self, worker: _Worker) -> None:
        ours, theirs = socket.socketpair()
        worker.pid = int(self._ask("spawn", theirs.fileno()))
        theirs.close()
        worker.channel, worker.replies = ours, ours.makefile("rb")
        self.selector.register(ours, selectors.EVENT_READ, worker)

    def _ask(self, command: str, *fds: int) -> str:
        """Send one command to the fork server and return its answer."""
        if self.control is None:
            self._start_fork_server()
        assert self.control is not None, "the fork server has just started"
        socket.send_fds(self.control, [command.encode()], list(fds))
        return self._read_line()

    def _read_line(self) -> str:
        assert self.replies is not None, "called after the fork server has started"
        line = self.replies.readline()
        if not line:
            raise StageError("verify: the process that forks the workers ended; see stderr")
        return line.decode().strip()

    def _start_fork_server(self) -> None:
        self.control, theirs = socket.socketpair()
        self.control.settimeout(START_LIMIT_S)
        self.replies = self.control.makefile("rb")
        root = str(Path(r1pipe.__file__).parent.parent)
        path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
        command = [sys.executable, "-m", "r1pipe.verify.workers.fork_server"]
        self.fork_server = subprocess.Popen(
            [*command, str(theirs.fileno()), self.pool.verifier],
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        self._read_line()

    def drop_sockets(self) -> None:
        """Close this process's copies, and tell no one."""
        for each in (self.replies, self.control, *self.workers):
            if each is not None:
                each.close()

    def stop(self) -> None:
        """End the fork server, and with it every worker."""
        self.drop_sockets()
        if self.fork_server is None:
            return
        try:
            self.fork_server.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.fork_server.kill()
            self.fork_server.wait()


_shared: dict[int, Pool] = {}
_shared_lock = threading.Lock()


def default_size() -> int:
    """Return how many workers a pool has by default: two, or one on a single core."""
    return min(2, usable_cores())


def shared_pool(num_workers: int = 0) -> Pool:
    """Return this process's pool of that size (0: `default_size`)."""
    count = num_workers or default_size()
    with _shared_lock:
        pool = _shared.get(count)
        if pool is None or pool.is_closed:
            pool = _shared[count] = Pool(count)
        return pool


def close_shared() -> None:
    """Close every shared pool of this process."""
    for pool in list(_shared.values()):
        pool.close()
    _shared.clear()


def _after_fork() -> None:
    global _shared_lock
    _shared_lock = threading.Lock()
    for pool in list(_shared.values()):
        pool.forget()
    _shared.clear()


atexit.register(close_shared)
os.register_at_fork(after_in_child=_after_fork)
