"""Seal a tree of files: fresh directories, read-only files nobody can write to, digests, one id.

A sealed directory holds `seal.json` and one folder per output. Whether it is still what was sealed
is decided by digests only; `signatures.py` says which files need not be read again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field

from r1pipe.errors import DamagedError, StageError, StoreError
from r1pipe.keys import FileEntry, artifact_id, digest_file
from r1pipe.store import disk, faults
from r1pipe.store.disk import FileStat
from r1pipe.store.state import Count, HexId, StateModel, checked, read_object

SEAL_NAME = "seal.json"
SEAL_FORMAT = 1
GRANULE_S = 0.02
"""Longer than two ticks of any kernel clock that stamps files (100 Hz and up)."""
COARSE_GRANULE_S = 2.1
"""For file systems that keep whole seconds, or two (FAT)."""
SMALL_BYTES = 4 << 20
MANY_FILES = 64
MAX_THREADS = 8
MAX_SEAL_BYTES = 1 << 30

Result = TypeVar("Result")


class JournalMark(StateModel):
    """Where a journal stood: its whole units, and a checksum over all their headers."""

    units: Count
    crc: Count


class _SealFile(StateModel):
    format: Count
    artifact: HexId
    outputs: dict[str, HexId]
    files: list[Annotated[list[object], Field(min_length=3, max_length=3)]]
    journals: dict[str, JournalMark] = Field(default_factory=dict)


@dataclass(frozen=True)
class Seal:
    """The content of a sealed directory; `files` have paths relative to it, sorted."""

    artifact: str
    outputs: Mapping[str, str]
    files: tuple[FileEntry, ...]
    journals: Mapping[str, JournalMark] = field(default_factory=dict)
    """Of a checkpoint: where each journal of the attempt stood when it was saved."""

    @property
    def size(self) -> int:
        """Bytes of all data files."""
        return sum(entry.size for entry in self.files)


def make_seal(
    files: Iterable[FileEntry], journals: Mapping[str, JournalMark] | None = None
) -> Seal:
    """Compute the ids of an artifact and of each of its outputs (its top-level folders)."""
    entries = tuple(sorted(files))
    folders: dict[str, list[FileEntry]] = {}
    for entry in entries:
        name, _, path = entry.path.partition("/")
        folders.setdefault(name, []).append(FileEntry(path, entry.size, entry.digest))
    outputs = {name: artifact_id(inside) for name, inside in folders.items()}
    return Seal(artifact_id(entries), outputs, entries, journals or {})


def write_seal(root: Path, seal: Seal) -> None:
    """Write `seal.json` (read-only, durable) into a directory."""
    value: dict[str, object] = {
        "format": SEAL_FORMAT,
        "artifact": seal.artifact,
        "outputs": dict(seal.outputs),
        "files": [[entry.path, entry.size, entry.digest] for entry in seal.files],
    }
    if seal.journals:
        value["journals"] = {name: mark.model_dump() for name, mark in seal.journals.items()}
    disk.place_json(root / SEAL_NAME, value)
    (root / SEAL_NAME).chmod(0o444)


def read_seal(root: Path) -> Seal:
    """Read and check `seal.json`; the ids are hashes of what it lists, so an edit is found."""
    path = root / SEAL_NAME
    value = read_object(path, MAX_SEAL_BYTES)
    if value is None:
        raise DamagedError(f"{path}: missing; the list of sealed files is lost")
    if isinstance(value.get("format"), int) and value["format"] > SEAL_FORMAT:
        raise StoreError(
            f"{root}: sealed in format {value['format']}, this r1pipe reads {SEAL_FORMAT}: "
            "upgrade r1pipe"
        )
    found = checked(_SealFile, value, path)
    try:
        seal = make_seal((_entry(*each) for each in found.files), found.journals)
    except (ValueError, TypeError) as error:
        raise DamagedError(f"{path}: not a list of sealed files ({error})") from error
    if (seal.artifact, dict(seal.outputs)) != (found.artifact, found.outputs):
        raise DamagedError(
            f"{path}: expected the digest {found.artifact}, found {seal.artifact}: "
            "the list was edited"
        )
    return seal


def _entry(path: object, size: object, digest: object) -> FileEntry:
    """Return one line of a seal; a path in it leads to a file below the seal, never elsewhere."""
    if not (isinstance(path, str) and isinstance(size, int) and isinstance(digest, str)):
        raise TypeError(f"{path!r}: expected a path, a size and a digest")
    parts = path.split("/")  # an absolute path has an empty first one
    if not all(parts) or {".", ".."} & {*parts} or "\0" in path:
        raise ValueError(f"{path!r} leads out of the artifact")
    return FileEntry(path, size, digest)


def collect(outputs: Mapping[str, Path], target: Path) -> None:
    """Move the outputs' files into fresh directories below `target` and take them from any writer.

    Nothing that an orphan still holds leads into the result: no working directory (the directories
    are new), no path (its name is random), no open handle or map (such a file is copied).
    """
    for name, source in outputs.items():
        files, others = disk.walk(source)
        if others:
            raise StageError(
                f"output '{name}' holds {others[0]}, which is neither a file nor a directory; "
                "write a plain file (a symbolic link would point out of the artifact)"
            )
        if not files:
            raise StageError(f"output '{name}' is empty: the stage wrote no file into it")
        for folder in {os.path.dirname(file.path) for file in files}:
            (target / name / folder).mkdir(parents=True, exist_ok=True)
        for file in files:
            (source / file.path).rename(target / name / file.path)
        _in_threads(_isolate, [target / name / file.path for file in files], files)


def _isolate(path: Path) -> None:
    path.chmod(0o444)
    if disk.has_writer(path):
        copy = path.with_name(f".{disk.token()}.copy")
        disk.copy_fresh(path, copy)
        copy.replace(path)
        path.chmod(0o444)
    disk.fsync_path(path)


def seal_tree(root: Path) -> Seal:
    """Digest the files below `root`, write its seal, make it durable and read-only."""
    before, _ = disk.walk(root)
    settle(before)
    digests = digest_all(root, before)
    faults.point("publish.digest")
    after, _ = disk.walk(root)
    if sorted(before) != sorted(after):
        changed = sorted(set(before) ^ set(after))[0].path
        raise StageError(f"{changed} changed while it was sealed; another process writes to it")
    seal = make_seal(
        FileEntry(file.path, file.size, digest)
        for file, digest in zip(before, digests, strict=True)
    )
    write_seal(root, seal)
    for folder in disk.directories(root):
        if folder != root:  # a directory that is still to be renamed must be writable
            folder.chmod(0o555)
        disk.fsync_path(folder)
    return seal


def digest_all(root: Path, files: list[FileStat]) -> list[str]:
    """Return the digests of files below `root`, several at a time when they are large."""
    return _in_threads(digest_file, [root / file.path for file in files], files)


def settle(files: Iterable[FileStat]) -> None:
    """Wait until a write to these files must show in their times."""
    is_coarse = all(file.mtime_ns % 1_000_000_000 == 0 for file in files)
    time.sleep(COARSE_GRANULE_S if is_coarse else GRANULE_S)


def _in_threads(
    function: Callable[[Path], Result], paths: list[Path], files: list[FileStat]
) -> list[Result]:
    """Digests and fsyncs release the interpreter's lock, so threads pay for large files."""
    if len(files) < MANY_FILES and sum(file.size for file in files) < SMALL_BYTES:
        return [function(path) for path in paths]
    from concurrent.futures import ThreadPoolExecutor

    from r1pipe.machine import usable_cores  # loads ctypes, which a run of nothing does without

    with ThreadPoolExecutor(min(MAX_THREADS, usable_cores())) as pool:
        return list(pool.map(function, paths))
