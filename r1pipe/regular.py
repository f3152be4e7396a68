"""Read what may be anything, within bounds: plain files, and JSON of bounded size and depth."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import BinaryIO, NoReturn

MAX_DEPTH = 100
"""Levels of JSON; what r1pipe writes has far fewer."""


class UnfitError(ValueError):
    """No plain file, or too large, or no JSON that is taken: of finite numbers, not nested deep."""


def read_regular(path: Path, max_bytes: int) -> bytes:
    """Return the bytes of a plain file; UnfitError for a pipe, a device or a larger file."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = b"" if size > max_bytes else file.read(max_bytes + 1)
    if (size := max(size, len(data))) > max_bytes:
        raise UnfitError(f"it has {size:,} bytes, more than {max_bytes:,}; is it the right file?")
    return data


def open_regular(path: Path) -> BinaryIO:
    """Open a plain file for reading; nothing waits, as `open` would for a pipe without a writer.

    A folder is an IsADirectoryError, as `open` has it.
    """
    _check(os.stat(path), path)
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")  # noqa: SIM115
    try:
        _check(os.fstat(file.fileno()), path)
    except BaseException:
        file.close()
        raise
    return file


def _check(found: os.stat_result, path: Path) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise UnfitError("it is a pipe, a device or a socket, not a plain file")


def parse_json(data: bytes, *, is_finite: bool = True, max_bytes: int | None = None) -> object:
    """Return the JSON value of a text; UnfitError for anything else and for deep nesting.

    NaN and the infinities are refused too, unless not `is_finite`, and more than `max_bytes`.
    """
    if max_bytes is not None and len(data) > max_bytes:
        raise UnfitError(f"it has {len(data):,} bytes, more than {max_bytes:,}")
    try:
        value: object = json.loads(data, parse_constant=_refuse if is_finite else None)
    except (ValueError, RecursionError) as error:
        raise UnfitError(f"it is no JSON: {error}" if data else "it is empty") from error
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise UnfitError(f"it is nested more than {MAX_DEPTH} levels deep")
    return value


def _refuse(constant: str) -> NoReturn:
    raise UnfitError(f"{constant} is not a finite number")


def _depth(value: object) -> int:
    """Return the levels of a JSON value, without recursion."""
    depth, level = 0, [value]
    while level:
        depth += 1
        inside: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inside += item.values()
            elif isinstance(item, list):
                inside += item
        level = inside
    return depth
