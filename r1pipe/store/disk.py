"""File operations of the store: durable writes, atomic placing, read-only trees.

Everything durable goes through here: a file is written beside its place, fsynced, renamed, and its
directory fsynced, so that a reader sees the old text or the new one, also after a power cut.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from r1pipe.errors import R1PipeError, StoreError
from r1pipe.regular import parse_json, read_regular

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSED = (*NO_SPACE, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
COPY_BYTES = 1 << 22
MAX_JSON_BYTES = 64 << 20
DEAD = ".dead-"
"""Begins the name of what is about to be deleted."""


class FileStat(NamedTuple):
    """A regular file found by `walk`: path relative to the root (POSIX) and its stat signature."""

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


def token() -> str:
    """Return a short random name that no process of an earlier attempt can know."""
    return secrets.token_hex(6)


def fsync_path(path: Path) -> None:
    """Make a file's bytes, or a directory's names, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def place_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Write `text` at `path` whole or not at all; makes the directory.

    A folder that stands in its place is renamed: nothing of ours made it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{token()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        if path.is_dir():
            path.rename(path.with_name(f".damaged-{token()}"))
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    if durable:
        fsync_path(path.parent)


def place_json(path: Path, value: object, *, durable: bool = True) -> None:
    """Write `value` as JSON at `path` whole or not at all."""
    place_text(path, json.dumps(value, ensure_ascii=False, sort_keys=True) + "\n", durable=durable)


def read_json(path: Path) -> Any:
    """Return the JSON value of a file, or None if there is no such file."""
    try:
        return parse_json(read_regular(path, MAX_JSON_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return None


def walk(root: Path) -> tuple[list[FileStat], list[str]]:
    """Return the regular files below `root`, and the paths of anything that is neither file nor
    directory (symbolic links included), each in one unsorted list."""
    files: list[FileStat] = []
    others: list[str] = []
    pending = [(str(root), "")]
    while pending:
        directory, prefix = pending.pop()
        with os.scandir(directory) as entries:
            for entry in entries:
                path = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append((entry.path, path + "/"))
                elif entry.is_file(follow_symlinks=False):
                    stat = entry.stat(follow_symlinks=False)
                    files.append(
                        FileStat(
                            path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino
                        )
                    )
                else:
                    others.append(path)
    return files, others


def directories(root: Path) -> list[Path]:
    """Return `root` and all directories below it, each after those inside it."""
    found = [Path(parent) for parent, _, _ in os.walk(root)]
    return found[::-1]


def remove_tree(path: Path) -> None:
    """Delete a tree, read-only directories included; a tree that is not there is no error."""

    def unlock(function: Callable[[str], object], name: str, _: object) -> None:
        for parent in (os.path.dirname(name), name):
            with suppress(OSError):
                if not os.path.islink(parent):
                    os.chmod(parent, 0o755)  # noqa: S103 - it is deleted next
        with suppress(FileNotFoundError):
            if function in (os.open, os.scandir, os.lstat):
                shutil.rmtree(name)
            else:
                function(name)

    with suppress(FileNotFoundError):
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        else:
            shutil.rmtree(path, onerror=unlock)


def discard_tree(path: Path) -> None:
    """Rename a tree to a name nobody knows, then delete what can be deleted of it.

    An orphan may fill its directories as fast as they are emptied; what is left is harmless there.
    Where a file system cannot rename it (`EXDEV`: the lower layer of a container), it is deleted in
    its place.
    """
    dead = path.with_name(f"{DEAD}{token()}")
    with suppress(FileNotFoundError):
        try:
            path.rename(dead)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            dead = path
        with suppress(OSError):
            remove_tree(dead)


def move_tree(source: Path, target: Path) -> None:
    """Move a file or a directory, a read-only one too (moving one writes its `..` entry).

    Where a rename is not possible (`EXDEV`: another file system, or the lower layer of a container)
    it is copied beside its new place, renamed, and then deleted at the old one.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if not source.is_symlink() and source.is_dir():
        with suppress(OSError):
            source.chmod(0o755)
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy_over(source, target)


def _copy_over(source: Path, target: Path) -> None:
    copy = target.with_name(f"{DEAD}{token()}")
    try:
        if source.is_dir() and not source.is_symlink():
            shutil.copytree(source, copy, symlinks=True)
        else:
            shutil.copy2(source, copy, follow_symlinks=False)
        for path in [*copy.rglob("*"), copy]:
            if not path.is_symlink():
                fsync_path(path)
        copy.rename(target)
    except BaseException:
        remove_tree(copy)
        raise
    fsync_path(target.parent)
    remove_tree(source)


def has_writer(path: Path) -> bool:
    """Return whether any process may still write through an open handle or map of this file.

    The kernel grants a read lease only on a file that nobody has open for writing. Where leases do
    not exist (network file systems, other systems) the answer is True, the safe one.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return True
    handle = os.open(path, os.O_RDONLY)
    try:
        # a process that opens the file meanwhile makes the kernel send a signal; SIGURG is ignored
        fcntl.fcntl(handle, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def copy_fresh(source: Path, target: Path) -> None:
    """Copy bytes into a new inode that no other process has a handle to."""
    with source.open("rb", buffering=0) as reader, target.open("xb", buffering=0) as writer:
        shutil.copyfileobj(reader, writer, COPY_BYTES)


def is_refusal(error: BaseException, root: Path) -> bool:
    """Return whether `error` says that the disk under `root` is full or cannot be written.

    Libraries in other languages report a full disk as text only, so the message counts too.
    """
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno in (*NO_SPACE, errno.EROFS):
            return True
        if error.filename is None:  # a write or an fsync of an open file
            return error.errno == errno.EIO
        return error.errno in REFUSED and str(error.filename).startswith(str(root))
    text = str(error)
    return any(os.strerror(code) in text for code in (*NO_SPACE, errno.EROFS))


FREE = "free space or fix the permissions"
OTHER = "name a place with space that you may write to"
ADVICE = f"{FREE}, then run the same command again"
STAGE_ADVICE = f"nothing was published and the attempt is kept: {ADVICE}"


@contextmanager
def store_errors(root: Path, doing: str, advice: str = ADVICE) -> Iterator[None]:
    """Turn a refusal of the file system into a `StoreError` that says what to do."""
    try:
        yield
    except R1PipeError:
        raise
    except Exception as error:
        if not is_refusal(error, root):
            raise
        if isinstance(error, OSError) and error.errno == errno.EROFS:
            advice = advice.replace(FREE, OTHER)
        raise StoreError(f"{root}: {doing}: {said(error)}; {advice}") from error


@contextmanager
def place_errors(place: Path) -> Iterator[None]:
    """Turn whatever the system says about writing a place that a person named into a `StoreError`.

    A file that cannot be read is not its fault: nothing is to be read inside.
    """
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{place}: cannot be written: {error.strerror or error}; {OTHER}"
        ) from error


def said(error: BaseException) -> str:
    """Return what an error says, without the number of the system's own."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"
