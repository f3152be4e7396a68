"""Canonical JSON, digests and key preimages. Nothing else in r1pipe hashes.

key         = H(kind, VERSION, params that differ from their frozen default, {input: artifact id},
                {entry of a plugin that the params name: digest of its file})
artifact id = H(sorted [path, size, digest] of the artifact's data files)
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias

from blake3 import blake3

CHUNK_BYTES = 1 << 20
DIGEST_SUFFIX = ".blake3"

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
"""A value to write as JSON."""
JsonObject: TypeAlias = dict[str, Any]
"""An object of JSON by name, such as a preimage, a record or a report: its values come from disk
and are checked where they are read."""
InputIds: TypeAlias = Mapping[str, str | Mapping[str, str]]
"""Input name -> the id of what it reads ({label: id} if an input takes many)."""


class FileEntry(NamedTuple):
    """One data file of an artifact: path relative to its root (POSIX), bytes, blake3 hex."""

    path: str
    size: int
    digest: str


def canonical_json(value: object) -> bytes:
    """Return the one UTF-8 JSON text of `value`: sorted keys, no spaces, no NaN.

    An integral float is written as an integer, so that `1` and `1.0` in a float field agree.
    """
    return json.dumps(
        _plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def _plain(value: object) -> Json:
    if isinstance(value, bool) or value is None or isinstance(value, int | str):
        return value
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value == int(value) else value
    if isinstance(value, Mapping):
        assert all(isinstance(key, str) for key in value), f"keys must be strings: {value!r}"
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no canonical JSON: {value!r}")


def digest_bytes(data: bytes) -> str:
    """Return the blake3 digest of `data` in hex."""
    return blake3(data).hexdigest()


def digest_json(value: object) -> str:
    """Return the digest of the canonical JSON of `value`."""
    return digest_bytes(canonical_json(value))


def digest_file(path: Path) -> str:
    """Return the blake3 digest of a file's bytes in hex, read in 1 MiB pieces."""
    hasher = blake3()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            hasher.update(chunk)
    return hasher.hexdigest()


def write_digested(path: Path, data: bytes) -> None:
    """Write a new file, and beside it the digest of these bytes, for `take_digest`.

    Sealing then need not read the file again; damage by the disk meanwhile is found like any
    later damage.
    """
    hasher, view = blake3(), memoryview(data)
    with path.open("xb") as file:
        for start in range(0, len(data), CHUNK_BYTES):
            hasher.update(view[start : start + CHUNK_BYTES])
            file.write(view[start : start + CHUNK_BYTES])
    path.with_name(path.name + DIGEST_SUFFIX).write_text(f"{hasher.hexdigest()} {len(data)}")


def take_digests(folder: Path) -> dict[str, tuple[str, int]]:
    """Remove the digests that `write_digested` wrote, and return {path: (digest, bytes)}."""
    found = {}
    for path in folder.rglob(f"*{DIGEST_SUFFIX}"):
        digest, size = path.read_text().split()
        name = path.relative_to(folder).as_posix().removesuffix(DIGEST_SUFFIX)
        found[name] = digest, int(size)
        path.unlink()
    return found


def copy_and_digest(source: Path, target: Path) -> str:
    """Copy a file's bytes into a new file and return the digest of what was copied."""
    with source.open("rb", buffering=0) as reader, target.open("xb") as writer:
        return copy_stream(reader, writer)


def copy_stream(reader: IO[bytes], writer: IO[bytes]) -> str:
    """Copy the rest of a stream and return its digest."""
    digesting = DigestingReader(reader)
    while chunk := digesting.read(CHUNK_BYTES):
        writer.write(chunk)
    return digesting.digest()


class DigestingReader:
    """A stream that digests what is read through it, for writers that read by themselves."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._hasher = blake3()

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes."""
        chunk = self._stream.read(size)
        self._hasher.update(chunk)
        return chunk

    def digest(self) -> str:
        """Return the digest of what was read so far, in hex."""
        return str(self._hasher.hexdigest())


def key_preimage(
    kind: str,
    version: int,
    params: Mapping[str, object],
    inputs: InputIds,
    plugins: Mapping[str, Mapping[str, str]] | None = None,
) -> JsonObject:
    """Return the preimage whose hash is the key; it is stored as JSON beside the result.

    `params` holds only fields that differ from their frozen default; `inputs` maps each input's
    name to the id of what it reads ({label: id} if an input takes many: labels reach results);
    `plugins` has the digests of the user's own rewards, tasks and checkers that the params name.
    """
    found = {"kind": kind, "version": version, "params": dict(params), "inputs": dict(inputs)}
    return found | ({"plugins": dict(plugins)} if plugins else {})


def key_of(preimage: Mapping[str, object]) -> str:
    """Return the key of a preimage."""
    return digest_json(preimage)


def artifact_id(files: Iterable[FileEntry]) -> str:
    """Return the id of a set of data files: content and relative paths decide, nothing else."""
    return digest_json([[entry.path, entry.size, entry.digest] for entry in sorted(files)])
