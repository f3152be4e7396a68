"""The caller's side of one warm sandbox: start it, run a program in it, replace it if it fails."""

from __future__ import annotations

import contextlib
import io
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import r1pipe
from r1pipe.sandbox import namespaces, system
from r1pipe.sandbox.layers import OUTER
from r1pipe.sandbox.runners import tool_folders

START_LIMIT_S = 30.0
ANSWER_LIMIT_S = 10.0
_CHUNK = 1 << 16
_MAX_LINE = 1 << 16
_ROOT = str(Path(r1pipe.__file__).resolve().parent.parent)


class SandboxError(Exception):
    """A warm sandbox did not start, or did not answer."""


@dataclass(frozen=True)
class Order:
    """A program to run: what its own process reads, and what the sandbox knows of it."""

    header: Mapping[str, object]
    """`program.Order`, but for `files`."""
    files: Mapping[str, bytes]
    """Files of its folder; '' is stdin."""
    wall_s: float
    output_bytes: int
    total_bytes: int
    fetch: tuple[str, ...] = ()
    """Files of its folder to bring back."""


@dataclass
class Ended:
    """How a program ended: its output, errors and report, cut at the limit."""

    texts: list[bytes]
    code: int
    is_late: bool
    is_cut: bool
    error: str = ""
    """Why it was not started."""
    files: dict[str, bytes] = field(default_factory=dict)


class WarmSandbox:
    """One sandbox, one program at a time. Any failure of it raises SandboxError and ends it."""

    def __init__(self, without: Collection[str] = ()) -> None:
        self.pid = os.getpid()
        self._control, theirs = socket.socketpair()
        self._control.settimeout(START_LIMIT_S)
        self._buffer = b""
        self.has_outer = OUTER not in without and outer_works()
        path = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
        command = [
            path,
            "-s",
            "-S",
            "-B",
            "-P",
            "-m",
            "r1pipe.sandbox.server",
            str(theirs.fileno()),
        ]
        self._process = subprocess.Popen(
            [*(_outer() if self.has_outer else ()), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"PYTHONPATH": _ROOT, "PYTHONHASHSEED": "0", "PYTHONIOENCODING": "utf-8"},
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        try:
            settings = {"without": sorted(without), "root": _ROOT, "tools": tool_folders()}
            self._control.sendall(json.dumps(settings).encode())
            answer = self._line()
            if "error" in answer:
                raise SandboxError(str(answer["error"]))
        except BaseException:
            self.close()
            raise

    @property
    def process_id(self) -> int:
        """The number of the process that was started."""
        return self._process.pid

    def run(self, order: Order) -> Ended:
        """Run a program and wait for its end. Raises SandboxError."""
        deadline = time.monotonic() + order.wall_s
        pipes = [os.pipe() for _ in range(3)]
        reads = [read for read, _ in pipes]
        try:
            self._send(order, [write for _, write in pipes])
            texts, ending = collect(reads, deadline, order.output_bytes)
            patience = max(0.0, deadline - time.monotonic()) if ending == "" else 0.0
            self._control.settimeout(patience + ANSWER_LIMIT_S)
            self._control.sendall(f"{patience:.6f}".encode())
            answer = self._line()
            files = {name: self._read(size) for name, size in _sizes(answer).items()}
        except OSError as error:
            self.close()
            raise SandboxError(f"the sandbox does not answer: {error}") from error
        except SandboxError:
            self.close()
            raise
        finally:
            for read in reads:
                os.close(read)
        is_late = ending == "late" or (ending == "" and bool(answer["late"]))
        code, fault = int(str(answer["code"])), str(answer["error"])
        return Ended(texts, code, is_late, ending == "cut", fault, files)

    def close(self) -> None:
        """End the sandbox and every program in it."""
        self._control.close()
        if self.pid != os.getpid():
            return
        try:
            self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _send(self, order: Order, outputs: Sequence[int]) -> None:
        """Have a program begun that writes to `outputs`, which are closed on this side."""
        job = {
            "total_bytes": order.total_bytes,
            "fetch": order.fetch,
            "fetch_bytes": order.total_bytes,
        }
        self._control.settimeout(ANSWER_LIMIT_S)
        try:
            with _payload(order) as file:
                fds = [file.fileno(), *outputs]
                socket.send_fds(self._control, [json.dumps(job).encode()], fds)
        finally:
            for output in outputs:
                os.close(output)

    def _line(self) -> dict[str, object]:
        while b"\n" not in self._buffer:
            self._receive()
            if len(self._buffer) > _MAX_LINE and b"\n" not in self._buffer:
                raise SandboxError("the sandbox gave no line")
        line, _, self._buffer = self._buffer.partition(b"\n")
        value = json.loads(line)
        return dict(value)

    def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._receive()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _receive(self) -> None:
        try:
            chunk = self._control.recv(1 << 20)
        except OSError as error:
            raise SandboxError(f"the sandbox does not answer: {error}") from error
        if not chunk:
            raise SandboxError("the sandbox ended")
        self._buffer += chunk


def _sizes(answer: Mapping[str, object]) -> dict[str, int]:
    sizes = answer.get("files")
    return {str(k): int(v) for k, v in sizes.items()} if isinstance(sizes, dict) else {}


def _payload(order: Order) -> io.RawIOBase:
    """Return a file with what the program's own process reads."""
    sizes = {name: len(data) for name, data in order.files.items()}
    header = json.dumps({**order.header, "files": sizes}).encode()
    if system.IS_LINUX:
        fd = os.memfd_create("program", os.MFD_CLOEXEC)
    else:
        fd, path = tempfile.mkstemp()
        os.unlink(path)
    view = memoryview(b"".join([len(header).to_bytes(8, "big"), header, *order.files.values()]))
    while view:
        view = view[os.write(fd, view) :]
    return io.FileIO(fd, "r+b")


def collect(pipes: list[int], deadline: float, cap: int) -> tuple[list[bytes], str]:
    """Read all pipes to their end (""), the deadline ("late") or the output limit ("cut")."""
    chunks: dict[int, list[bytes]] = {fd: [] for fd in pipes}
    size, ending = 0, ""
    with selectors.DefaultSelector() as selector:
        for fd in pipes:
            selector.register(fd, selectors.EVENT_READ)
        while selector.get_map():
            left = deadline - time.monotonic()
            ready = selector.select(left) if left > 0 else []
            if not ready:
                ending = "late"
                break
            for key, _ in ready:
                chunk = os.read(key.fd, _CHUNK)
                if not chunk:
                    selector.unregister(key.fd)
                chunks[key.fd].append(chunk)
                size += len(chunk)
            if size > cap:
                ending = "cut"
                break
    return [b"".join(chunks[fd])[:cap] for fd in pipes], ending


# ---- bubblewrap around it ------------------------------------------------------------------------

_works: list[bool] = []


def outer_works() -> bool:
    """Return whether bubblewrap is installed and may do its work here; found out once."""
    if not _works:
        done = None
        if shutil.which("bwrap") is not None:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                done = subprocess.run(
                    [*_outer(), os.path.realpath(sys.executable), "-I", "-S", "-c", ""],
                    capture_output=True,
                    timeout=START_LIMIT_S,
                    check=False,
                )
        _works.append(done is not None and done.returncode == 0)
    return _works[0]


def _outer() -> list[str]:
    """Return bubblewrap's part of the command: it shows what the sandbox is made of, read-only."""
    words = ["bwrap", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    if os.geteuid():
        words += ["--unshare-user"]
    else:  # programs become nobody inside, which takes the right to map that user
        for name in ("SETUID", "SETGID", "SETFCAP", "DAC_OVERRIDE"):
            words += ["--cap-add", f"CAP_{name}"]
    shown = [*namespaces.LIBRARIES, *namespaces.TOOLS, namespaces.CACHE, *tool_folders()]
    shown += [sys.base_prefix, os.path.join(_ROOT, "r1pipe")]
    words += ["--proc", "/proc", "--tmpfs", namespaces.EMPTY]
    for path in shown:
        if os.path.islink(path):
            words += ["--symlink", os.readlink(path), path]
        else:
            words += ["--ro-bind-try", path, path]
    for path in namespaces.DEVICES:
        words += ["--dev-bind-try", path, path]
    return [*words, "--chdir", "/", "--"]
