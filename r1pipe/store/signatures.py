"""Remember which sealed files need not be read again, and find damage in those that must be.

A stat signature is size, both times and inode of each file, kept beside the store's objects. It is
taken when the files' times are a clock granule in the past, so that any later write shows in it
("racily clean" in git's words). It is only ever compared for equality: a clock set back, a restored
or a copied store costs a second reading, never a wrong answer.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from r1pipe.errors import DamagedError
from r1pipe.keys import FileEntry, digest_bytes
from r1pipe.regular import open_regular, parse_json, read_regular
from r1pipe.store import disk
from r1pipe.store.disk import FileStat
from r1pipe.store.sealing import SEAL_NAME, Seal, digest_all, read_seal, settle

MAX_BYTES = 1 << 30
MAX_LINE_BYTES = 200


def listing_digest(files: Iterable[FileStat]) -> str:
    """Return one digest of all signatures, so that an unchanged artifact costs one comparison."""
    return digest_bytes("\n".join(map(repr, sorted(map(tuple, files)))).encode())


def write_signatures(path: Path, files: Iterable[FileStat]) -> None:
    """Remember signatures: their common digest in the first line, then each of them."""
    files = list(files)
    each = {file.path: file[1:] for file in files}
    disk.place_text(path, f"{listing_digest(files)}\n{json.dumps(each)}\n", durable=False)


def is_unchanged(root: Path, signatures: Path) -> bool:
    """Return whether a sealed directory is, by its signatures, what it was when last read."""
    try:
        with open_regular(signatures) as file:
            known = file.readline(MAX_LINE_BYTES).strip().decode("ascii")
    except (OSError, ValueError):
        return False
    files, others = disk.walk(root)
    return not others and known == listing_digest(files)


def verify(root: Path, expected: str, signatures: Path, *, full: bool = False) -> Seal:
    """Read the files whose signature changed (all if `full`), compare with the seal, remember.

    `expected` is the artifact's id. Raises DamagedError that names the file, what was expected and
    what was found.
    """
    return verify_some(root, expected, signatures, frozenset(), full)[0]


def verify_some(
    root: Path, expected: str, signatures: Path, also: Collection[str], full: bool
) -> tuple[Seal, int]:
    """Verify like `verify`, reading the files `also` too; return the seal and the bytes read."""
    seal = read_seal(root)
    if seal.artifact != expected:
        raise DamagedError(f"{root}: expected artifact {expected}, found {seal.artifact}")
    files, others = disk.walk(root)
    found = {file.path: file for file in files}
    if (seal_file := found.pop(SEAL_NAME, None)) is None:
        raise DamagedError(f"{root / SEAL_NAME}: missing")
    known = {} if full else _read_signatures(signatures)
    _compare_names(root, seal, found, others)
    unread = [
        entry
        for entry in seal.files
        if entry.path in also or known.get(entry.path) != found[entry.path][1:]
    ]
    _compare_bytes(root, unread, found)
    with suppress(OSError):  # a store that is only readable is still checked
        write_signatures(signatures, [*found.values(), seal_file])
    return seal, sum(entry.size for entry in unread)


def _read_signatures(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the signature of each file; none at all if they do not have their common digest."""
    try:
        common, _, rest = read_regular(path, MAX_BYTES).partition(b"\n")
        value = parse_json(rest)
        known = {name: tuple(each) for name, each in value.items()}  # type: ignore[attr-defined]
        files = [FileStat(name, *each) for name, each in known.items()]
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
    return known if listing_digest(files).encode() == common else {}


def _compare_names(
    root: Path, seal: Seal, found: Mapping[str, FileStat], others: list[str]
) -> None:
    sealed = {entry.path for entry in seal.files}
    for entry in seal.files:
        if entry.path not in found:
            raise DamagedError(
                f"{root / entry.path}: expected {entry.size} bytes with digest {entry.digest}, "
                "found no such file"
            )
    if extra := sorted({*found, *others} - sealed):
        raise DamagedError(
            f"{root / extra[0]}: expected no such file, found one: it was added after sealing"
        )


def _compare_bytes(root: Path, entries: list[FileEntry], found: Mapping[str, FileStat]) -> None:
    for entry in entries:
        if found[entry.path].size != entry.size:
            raise DamagedError(
                f"{root / entry.path}: expected {entry.size} bytes, "
                f"found {found[entry.path].size} bytes"
            )
    if not entries:
        return
    settle(found[entry.path] for entry in entries)
    digests = digest_all(root, [found[entry.path] for entry in entries])
    for entry, digest in zip(entries, digests, strict=True):
        if digest != entry.digest:
            raise DamagedError(
                f"{root / entry.path}: expected digest {entry.digest}, found {digest}"
            )
