"""Sealed training checkpoints: written aside, digested, and named by one rename.

A folder `step-0000000040` is a checkpoint when, and only when, its files match its `seal.json`. The
newest two are kept, so that a damaged newest one costs one interval and not the training. Shards
are digested while they are written (`keys.write_digested`); other files are read once more.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from r1pipe.errors import DamagedError
from r1pipe.keys import FileEntry, copy_and_digest, take_digests
from r1pipe.store import disk, faults
from r1pipe.store.beside import SavesBeside
from r1pipe.store.sealing import (
    SEAL_NAME,
    JournalMark,
    Seal,
    digest_all,
    make_seal,
    read_seal,
    write_seal,
)

KEPT = 2
_NAME = re.compile(r"step-(\d{10,})")


def steps(folder: Path) -> list[tuple[int, Path]]:
    """Return (step, directory) of all named checkpoints in a folder, newest first, unverified."""
    if not folder.is_dir():
        return []
    named = [(_NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    return sorted(((int(match[1]), path) for match, path in named if match), reverse=True)


def is_whole(path: Path) -> bool:
    """Return whether a checkpoint's files are, by digest, those that were sealed."""
    try:
        seal = read_seal(path)
    except DamagedError:
        return False
    files, others = disk.walk(path)
    data = sorted(file for file in files if file.path != SEAL_NAME)
    if others or [file.path for file in data] != [entry.path for entry in seal.files]:
        return False
    return digest_all(path, data) == [entry.digest for entry in seal.files]


def copy_whole(source: Path, target: Path) -> bool:
    """Copy a checkpoint into new files, digesting what is copied; False if it is damaged.

    An orphan of the attempt that wrote it may still hold handles to the old files, not to these.
    """
    try:
        seal = read_seal(source)
        for entry in seal.files:
            path = target / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            if copy_and_digest(source / entry.path, path) != entry.digest:
                raise DamagedError(f"{source / entry.path}: changed after it was sealed")
    except (DamagedError, FileNotFoundError):
        disk.remove_tree(target)
        return False
    _finish(target, seal)
    return True


def ahead_of(path: Path, frames: Mapping[str, Sequence[int]]) -> str | None:
    """Name a journal that is no longer what it was when a checkpoint was saved; None if all agree.

    `frames` holds, by journal, the running checksum after each whole frame.
    """
    try:
        journals = read_seal(path).journals
    except DamagedError:
        return None  # it is not whole: that is found when it is copied
    for name, mark in journals.items():
        sums = [0, *frames.get(name, ())]
        if mark.units >= len(sums) or sums[mark.units] != mark.crc:
            return name
    return None


class SealedCheckpoints(SavesBeside):
    """The checkpoints of one attempt; `mark_journals` makes its journals durable, and says where
    they stand. One that is begun is told to `on_begun`, its seconds then to `on_saved`."""

    def __init__(
        self,
        folder: Path,
        on_saved: Callable[[float], None] = lambda seconds: None,
        mark_journals: Callable[[], Mapping[str, JournalMark]] = dict,
        on_begun: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder = folder
        self._on_begun = on_begun
        self._on_saved = on_saved
        self._mark_journals = mark_journals
        self._known: set[Path] = set()

    def latest(self) -> tuple[int, Path] | None:
        """Return the step and directory of the newest whole checkpoint, or None."""
        self.wait()
        for step, path in steps(self.folder):
            if path in self._known or is_whole(path):
                self._known.add(path)
                return step, path
        return None

    @contextmanager
    def saving(self, step: int) -> Iterator[Path]:
        """Give a directory to write into; sealed by one rename when the block ends well.

        The journals are marked as they are now: what is saved may be written while they grow.
        """
        started = time.monotonic()
        self._on_begun()
        marks = self._mark_journals()
        writing = self.folder / f".writing-{disk.token()}"
        writing.mkdir(parents=True)
        try:
            yield writing
            faults.point("checkpoint.write")
            _finish(writing, _seal(writing, marks))
            self._place(writing, self.folder / f"step-{step:010d}")
        except BaseException:
            disk.remove_tree(writing)
            raise
        self._on_saved(time.monotonic() - started)

    def _place(self, writing: Path, target: Path) -> None:
        faults.point("checkpoint.seal")
        if target.exists():  # redone after the newest one was found damaged
            disk.discard_tree(target)
        writing.rename(target)
        faults.point("checkpoint.rename")
        disk.fsync_path(self.folder)
        self._known.add(target)
        newest = [path for _, path in steps(self.folder)[:KEPT]]
        for path in self.folder.iterdir():
            if path not in newest:
                disk.remove_tree(path)
                faults.point("checkpoint.prune")


def _seal(folder: Path, journals: Mapping[str, JournalMark]) -> Seal:
    """Return the seal of what was written; what was digested while it was is not read again."""
    written = take_digests(folder)
    files, others = disk.walk(folder)
    assert not others, f"a checkpoint holds plain files only, not {others[0]}"
    entries = [FileEntry(path, size, digest) for path, (digest, size) in written.items()]
    unread = [file for file in files if file.path not in written]
    for file, digest in zip(unread, digest_all(folder, unread), strict=True):
        entries.append(FileEntry(file.path, file.size, digest))
    return make_seal(entries, journals)


def _finish(folder: Path, seal: Seal) -> None:
    """Write the seal and make files and names durable."""
    for entry in seal.files:
        disk.fsync_path(folder / entry.path)
    write_seal(folder, seal)
    for directory in disk.directories(folder):
        disk.fsync_path(directory)
