"""A model on a node that does not see its folder: its files come through Ray's object store.

A node sees a folder if it can open every file there, and each has the size and the time of change
that it has for the run. If not, the first engine of the node fetches the files, part by part, from
the node of the run into a folder in the node's own temporary folder; the others wait for it and
take the same. The folder is named by what is in it, and appears whole or not at all.

Engines are ended by SIGKILL, so none can clean up after itself. Each holds a lock of the kernel on
the model that it has; whoever fetches another one first removes all that nobody holds.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from r1pipe.errors import StageError
from r1pipe.keys import digest_json
from r1pipe.text import format_bytes

PART_BYTES = 64 << 20
"""Read, and in the object store, together."""
LOCK, HELD, UNFINISHED = ".lock", ".held", ".part-"
"""Of one process that looks and fetches; of all that have the model; before it is whole."""
SHARED = "put the store on a file system that all nodes see"


@dataclass(frozen=True)
class ModelFile:
    """One file of a model."""

    name: str
    """Its path below the model's folder."""
    size: int
    """In bytes."""
    changed_ns: int
    """When it was changed, in nanoseconds since 1970."""


@dataclass(frozen=True)
class ModelFiles:
    """What the run has in a model's folder."""

    host: str
    """The machine of the run."""
    node: str | None
    """Ray's id of it; None for a run outside of the cluster's nodes."""
    folder: str
    files: tuple[ModelFile, ...]

    @property
    def key(self) -> str:
        """A name for these files as they are."""
        listed = [[file.name, file.size, file.changed_ns] for file in self.files]
        return digest_json([self.host, self.folder, listed])

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(file.size for file in self.files)

    def are_in(self, folder: Path) -> bool:
        """Return whether a folder has all files, as they are for the run."""
        return all(_is_in(folder, file) for file in self.files)


Read: TypeAlias = Callable[[ModelFile], Iterator[bytes]]
"""Yields the parts of a file, in their order."""


def listed(folder: Path, node: str | None) -> ModelFiles:
    """Return the files of a model's folder on this machine, in the order of their names."""
    files = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found = path.stat()
            name = path.relative_to(folder).as_posix()
            files.append(ModelFile(name, found.st_size, found.st_mtime_ns))
    return ModelFiles(socket.gethostname(), node, str(folder), tuple(files))


def _is_in(folder: Path, file: ModelFile) -> bool:
    try:
        with (folder / file.name).open("rb") as opened:
            found = os.fstat(opened.fileno())
    except OSError:
        return False
    return (found.st_size, found.st_mtime_ns) == (file.size, file.changed_ns)


@contextmanager
def model_here(files: ModelFiles, *, is_spanning: bool) -> Iterator[tuple[Path, int]]:
    """Give the folder of a model on this node, which stays as long as the block lasts, and how
    many bytes were fetched for it.

    Raises StageError if the node does not see it and the files cannot come here.
    """
    folder = Path(files.folder)
    if files.are_in(folder):
        yield folder, 0
        return
    where = f"{socket.gethostname()} does not see the model in {folder} as the run on {files.host}"
    if files.node is None:
        raise StageError(f"{where}, which is outside of the cluster's nodes; {SHARED}")
    if is_spanning:
        raise StageError(f"{where} does, and an engine over several nodes reads it there; {SHARED}")
    with shared(files, own_cache(), through_ray(files)) as found:
        yield found


def own_cache() -> Path:
    """Return the folder of this user for fetched models on this node, which nobody else can
    write; StageError if somebody else has it."""
    place = Path(tempfile.gettempdir()) / f"r1pipe-models-{os.getuid()}"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = place.lstat()
    if place.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise StageError(
            f"{socket.gethostname()}: others can write {place}; remove it, or set TMPDIR where Ray"
            " is started to a folder of your own"
        )
    return place


@contextmanager
def shared(files: ModelFiles, cache: Path, read: Read) -> Iterator[tuple[Path, int]]:
    """Give the folder of a model in a cache, and how many bytes were read for it: all of them in
    the first process that wants it, none in those that wait for that one or come later.

    Other processes leave the folder as long as the block lasts. Raises StageError if the cache has
    no room.
    """
    place, size = cache / files.key, 0
    with (cache / (files.key + HELD)).open("w") as held:
        with (cache / (files.key + LOCK)).open("w") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            fcntl.flock(held, fcntl.LOCK_SH)
            if not files.are_in(place):
                _clear(cache, files.key)
                _fill(files, place, read)
                size = files.num_bytes
        yield place, size


def _clear(cache: Path, own: str) -> None:
    """Remove what nobody holds, and of the model whose gate is closed here all that there is."""
    for path in cache.iterdir():
        key = path.name.partition(UNFINISHED)[0]
        if not path.is_dir():
            continue  # a lock, which another process may be waiting for
        with (cache / (key + HELD)).open("w") as held:
            if key != own:
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
            shutil.rmtree(path, ignore_errors=True)


def _fill(files: ModelFiles, place: Path, read: Read) -> None:
    """Write all files into a new folder, which gets its name when they are there."""
    free = shutil.disk_usage(place.parent).free
    try:
        if free < files.num_bytes:
            raise OSError(f"{format_bytes(free)} are free")
        new = Path(tempfile.mkdtemp(prefix=place.name + UNFINISHED, dir=place.parent))
        for file in files.files:
            path = new / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as opened:
                for part in read(file):
                    opened.write(part)
            os.utime(path, ns=(file.changed_ns, file.changed_ns))
        new.rename(place)
    except OSError as error:
        raise StageError(
            f"{socket.gethostname()} does not see {files.folder}, and the"
            f" {format_bytes(files.num_bytes)} of the model cannot be kept in {place.parent}:"
            f" {error}; {SHARED}, or set TMPDIR where Ray is started to a larger place"
        ) from error


def part_of(folder: str, file: ModelFile, start: int) -> bytes:
    """Return a part of a file, on the node of the run; StageError if the file is not what it was
    when the run began."""
    if not _is_in(Path(folder), file):
        raise StageError(
            f"{folder}/{file.name} is gone or was changed while it was read; run again"
        )
    with (Path(folder) / file.name).open("rb") as opened:
        opened.seek(start)
        return opened.read(PART_BYTES)


def through_ray(files: ModelFiles) -> Read:
    """Return what reads files on the node of the run; one part is read while another is written."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(files.node, soft=False)
    task: Any = ray.remote(part_of).options(num_cpus=0, scheduling_strategy=there)

    def read(file: ModelFile) -> Iterator[bytes]:
        starts = range(0, file.size, PART_BYTES)
        waiting = [task.remote(files.folder, file, start) for start in starts[:1]]
        for start in [*starts[1:], None]:
            if start is not None:
                waiting.append(task.remote(files.folder, file, start))
            if waiting:
                yield _got(ray, waiting.pop(0))

    return read


def _got(ray: Any, reference: Any) -> bytes:
    try:
        part: bytes = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, StageError):
            raise StageError(str(error.cause)) from None
        raise
    return part
