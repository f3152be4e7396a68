"""An append-only list of rows that survives a kill: each unit is whole or not there.

A unit is one frame: a header line of JSON (unit, number of rows, payload bytes, CRC-32 of all that
and the payload) and the rows as lines of JSON, written by one system call. What follows the last
whole frame is cut off when the journal is opened. A thread makes appended frames durable within
about a second, so that the stage never waits for the disk; a failure of that thread is raised by
the next append.
"""

from __future__ import annotations

import json
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from r1pipe.errors import StageError
from r1pipe.records import Row, json_lines
from r1pipe.regular import UnfitError, open_regular
from r1pipe.store import faults

SYNC_EVERY_S = 1.0
CHUNK_BYTES = 1 << 20
MAX_HEADER_BYTES = 1 << 20


class Frame(NamedTuple):
    """A whole frame: its unit, number of rows, and where its header and payload end."""

    unit: str
    rows: int
    payload_start: int
    end: int
    crc: int


def encode_frame(unit: str, num_rows: int, payload: bytes) -> bytes:
    """Return the bytes of one unit, whose rows are given as lines of JSON."""
    return _framed(unit, num_rows, payload, frame_crc(unit, num_rows, payload))


def _framed(unit: str, num_rows: int, payload: bytes, crc: int) -> bytes:
    header = {"unit": unit, "rows": num_rows, "bytes": len(payload), "crc": crc}
    return json.dumps(header).encode() + b"\n" + payload


def frame_crc(unit: str, num_rows: int, payload: bytes) -> int:
    """Return the checksum of one unit: of its header and its rows."""
    return zlib.crc32(payload, _header_crc(unit, num_rows, len(payload)))


def _header_crc(unit: str, rows: int, size: int) -> int:
    return zlib.crc32(f"{rows} {size} {unit}".encode())


def read_frames(
    file: BinaryIO, on_chunk: Callable[[bytes], object] | None = None
) -> Iterator[Frame]:
    """Yield the whole frames of a journal from its start, in constant memory; stop at a torn one.

    `on_chunk` is handed the bytes of each frame as they are read, before it is known to be whole.
    """
    end = 0
    while header_line := file.readline(MAX_HEADER_BYTES):
        frame = _parse_header(header_line)
        if frame is None:
            return
        unit, rows, size, crc = frame
        if on_chunk is not None:
            on_chunk(header_line)
        left, found = size, _header_crc(unit, rows, size)
        while left and (chunk := file.read(min(left, CHUNK_BYTES))):
            found = zlib.crc32(chunk, found)
            left -= len(chunk)
            if on_chunk is not None:
                on_chunk(chunk)
        if left or found != crc:
            return
        start = end + len(header_line)
        end = start + size
        yield Frame(unit, rows, start, end, crc)


def _parse_header(line: bytes) -> tuple[str, int, int, int] | None:
    try:
        value = json.loads(line)
        unit, numbers = value["unit"], (value["rows"], value["bytes"], value["crc"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not line.endswith(b"\n") or not isinstance(unit, str):
        return None
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        return None
    return (unit, *numbers)


def copy_whole_frames(source: Path, target: Path) -> list[int]:
    """Copy a journal up to its last whole frame into a new file.

    Returns the running checksum after each frame (`next_sum`), so one number per unit.
    """
    sums, end = list[int](), 0
    with target.open("xb") as writer:
        try:
            with open_regular(source) as reader:
                for frame in read_frames(reader, writer.write):
                    sums.append(next_sum(sums[-1] if sums else 0, frame))
                    end = frame.end
        except (UnfitError, IsADirectoryError):
            end = 0
        writer.truncate(end)
        writer.flush()
        os.fsync(writer.fileno())
    return sums


def next_sum(before: int, frame: Frame) -> int:
    """Return the running checksum of a journal's frames after one more."""
    return zlib.crc32(f"{frame.crc}".encode(), before)


class FileJournal:
    """A journal in one file; safe for several threads of one process."""

    def __init__(self, path: Path, sync_every_s: float = SYNC_EVERY_S) -> None:
        self.path = path
        self._sync_every_s = sync_every_s
        self._lock = threading.Lock()
        self._units: dict[str, Frame] = {}
        self._end = self._sum = 0
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        with path.open("rb") as file:
            for frame in read_frames(file):
                self._units[frame.unit] = frame
                self._end, self._sum = frame.end, next_sum(self._sum, frame)
        os.ftruncate(self._handle, self._end)
        self._failure: OSError | None = None
        self._dirty, self._closing = threading.Event(), threading.Event()
        self._syncer = threading.Thread(target=self._sync_loop, name=f"sync-{path.name}")
        self._syncer.daemon = True
        self._syncer.start()

    def append(self, unit: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Add all rows of one unit of work; visible together, durable within about a second."""
        self.append_lines(unit, len(rows), json_lines(rows))

    def append_lines(self, unit: str, num_rows: int, payload: bytes) -> None:
        """Add the rows of one unit as lines of JSON that another process has made."""
        crc = frame_crc(unit, num_rows, payload)
        frame = _framed(unit, num_rows, payload, crc)
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if unit in self._units:
                raise StageError(f"journal {self.path.name}: unit '{unit}' was appended before")
            self._write(frame)
            self._end += len(frame)
            new = Frame(unit, num_rows, self._end - len(payload), self._end, crc)
            self._units[unit] = new
            self._sum = next_sum(self._sum, new)
        self._dirty.set()
        faults.point("journal.append")

    def _write(self, frame: bytes) -> None:
        if faults.is_next("journal.torn"):
            os.write(self._handle, frame[: len(frame) // 2])
        faults.point("journal.torn")
        try:
            view = memoryview(frame)
            while view:
                view = view[os.write(self._handle, view) :]
        except BaseException:
            os.ftruncate(self._handle, self._end)
            raise

    def done(self) -> frozenset[str]:
        """Return the units that are already in the journal (a copy: call it once)."""
        with self._lock:
            return frozenset(self._units)

    def lines(self, unit: str) -> bytes:
        """Return the rows of a unit that is in the journal, as lines of JSON."""
        with self._lock:
            frame = self._units[unit]
        size = frame.end - frame.payload_start
        with self.path.open("rb") as file:
            file.seek(frame.payload_start)
            payload = file.read(size)
        assert len(payload) == size, f"{self.path} was changed by another process"
        return payload

    def rows(self) -> Iterator[Row]:
        """Yield all rows, in the order in which their units were appended, in constant memory."""
        with self._lock:
            frames, end = list(self._units.values()), self._end
        with self.path.open("rb") as file:
            for frame in frames:
                file.readline()
                for _ in range(frame.rows):
                    yield json.loads(file.readline())
            assert file.tell() == end, f"{self.path} was changed by another process"

    def mark(self) -> tuple[int, int]:
        """Make everything durable; return the number of units and their running checksum."""
        with self._lock:
            os.fdatasync(self._handle)
            return len(self._units), self._sum

    def close(self) -> None:
        """Make everything durable and let go of the file."""
        self._closing.set()
        self._dirty.set()
        self._syncer.join()
        os.close(self._handle)
        if self._failure is not None:
            raise self._failure

    def _sync_loop(self) -> None:
        while True:
            self._dirty.wait()
            self._dirty.clear()
            try:
                os.fdatasync(self._handle)
            except OSError as error:
                self._failure = error
                return
            if self._closing.wait(self._sync_every_s) and not self._dirty.is_set():
                return
