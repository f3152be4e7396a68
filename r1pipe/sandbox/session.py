"""One sandbox as its user sees it: limits in, an outcome out, whatever the program does."""

from __future__ import annotations

import signal
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from r1pipe.regular import UnfitError, parse_json
from r1pipe.sandbox.layers import FILES, NAMESPACES, OUTER, SYSTEM_CALLS
from r1pipe.sandbox.warm import Ended, Order, SandboxError, WarmSandbox

if TYPE_CHECKING:
    from r1pipe.keys import Json

MAX_REPORT_BYTES, MAX_CALLS_BYTES = 1 << 20, 16 << 20


class Status(StrEnum):
    """How a program ended."""

    OK = "ok"
    FAILED = "failed"
    TIMEOUT = "timeout"
    TOO_MUCH_OUTPUT = "too_much_output"
    CRASHED = "crashed"
    """The sandbox ended with it, or could not start it: no fault that we know is the program's."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one run; wall and CPU time in seconds, the rest in bytes but for processes."""

    wall_s: float = 5.0
    cpu_s: int = 5
    memory_bytes: int = 512 << 20
    """Address space of each process."""
    file_bytes: int = 16 << 20
    """Largest file."""
    total_bytes: int = 64 << 20
    """All files together."""
    output_bytes: int = 1 << 20
    processes: int = 64
    """Threads and processes."""

    def rlimits(self) -> dict[str, int]:
        """Return the resource limits by name."""
        return {
            "RLIMIT_CPU": self.cpu_s,
            "RLIMIT_AS": self.memory_bytes,
            "RLIMIT_FSIZE": self.file_bytes,
            "RLIMIT_CORE": 0,
            "RLIMIT_NOFILE": 64,
            "RLIMIT_MSGQUEUE": 0,
            "RLIMIT_SIGPENDING": 256,
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """A program's output (cut at the limit) and, for calls, their values in order."""

    status: Status
    stdout: str
    stderr: str
    values: list[Json] = field(default_factory=list)
    wall_s: float = 0.0
    layers: dict[str, bool] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    """Files that were asked for and are there."""


class Sandbox:
    """A warm sandbox that is started when it is first needed, and again when it has failed."""

    def __init__(self, without: Collection[str] = ()) -> None:
        self.without = frozenset(without)
        self._warm: WarmSandbox | None = None
        self.reason = ""
        """Why there are no namespaces, where there are none."""

    def run(self, order: Order, calls: Sequence[str] | None = None) -> Outcome:
        """Run a program; a sandbox that fails is replaced once."""
        started = time.monotonic()
        for _ in range(2):
            try:
                warm = self._started()
                ended = warm.run(order)
            except SandboxError as error:
                self.close()
                said = str(error)
                continue
            return _outcome(ended, calls, time.monotonic() - started, warm.has_outer)
        return Outcome(Status.CRASHED, "", said, wall_s=time.monotonic() - started)

    @property
    def pid(self) -> int:
        """The number of the sandbox's process; 0 while it is not started."""
        return self._warm.process_id if self._warm is not None else 0

    def why_without(self) -> str:
        """Start it; return why it has no namespaces, or nothing."""
        try:
            self._started()
        except SandboxError as error:
            return str(error)
        return self.reason

    def close(self) -> None:
        """End the sandbox."""
        warm, self._warm = self._warm, None
        if warm is not None:
            warm.close()

    def _started(self) -> WarmSandbox:
        if self._warm is None:
            try:
                self._warm = WarmSandbox(self.without)
            except SandboxError as error:
                self.reason = str(error)
                self._warm = WarmSandbox({*self.without, *NAMESPACES})
        return self._warm


def _outcome(ended: Ended, calls: Sequence[str] | None, wall_s: float, has_outer: bool) -> Outcome:
    """Read the report: the layers on its first line, then one value for each call."""
    stdout, stderr, report = (text.decode("utf-8", "replace") for text in ended.texts)
    lines = report.split("\n")
    status = _status(ended)
    try:
        layers = _layers(lines[0], has_outer)
    except UnfitError:
        said = ended.error or stderr
        return Outcome(Status.CRASHED, stdout, f"not started: {said}", wall_s=wall_s)
    values: list[Json] = []
    if calls is not None:
        try:
            values = [_value(line) for line in lines[1:-1]]
        except UnfitError:
            status = Status.FAILED
        if status is Status.OK and len(values) != len(calls):
            status = Status.FAILED
    return Outcome(status, stdout, stderr, values, wall_s, layers, ended.files)


def _layers(line: str, has_outer: bool) -> dict[str, bool]:
    """Return the layers of a report's first line, which is written before the program runs."""
    found = _read(line, MAX_REPORT_BYTES)
    layers = found.get("layers") if isinstance(found, dict) else None
    if not isinstance(layers, dict):
        raise UnfitError("no layers")
    names = (*NAMESPACES, FILES, SYSTEM_CALLS)
    return {name: layers.get(name) is True for name in names} | {OUTER: has_outer}


def _value(line: str) -> Json:
    found = _read(line, MAX_CALLS_BYTES)
    if not isinstance(found, dict) or found.keys() != {"value"}:
        raise UnfitError("no value")
    value: Json = found["value"]
    return value


def _read(line: str, max_bytes: int) -> object:
    """Return the JSON of a line that a program may have written."""
    data = line.encode("utf-8", "surrogatepass")
    return parse_json(data, is_finite=False, max_bytes=max_bytes)


def _status(ended: Ended) -> Status:
    if ended.is_cut:
        return Status.TOO_MUCH_OUTPUT
    if ended.is_late or ended.code in (-signal.SIGXCPU, -signal.SIGKILL):
        return Status.TIMEOUT
    return Status.OK if ended.code == 0 else Status.FAILED
