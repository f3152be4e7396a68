"""Copies of safetensors files that say where they come from.

    8 bytes    length of the header, little-endian
    header     JSON: tensor -> dtype, shape, place; `__metadata__` -> texts by name
    the rest   the tensors' bytes

A sealed file cannot name its artifact, whose id is a digest of its bytes. A copy that leaves the
store can: `safetensors.safe_open(...).metadata()` reads it, and the tensors are the same.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

from r1pipe.errors import DamagedError
from r1pipe.keys import DigestingReader

CHUNK_BYTES = 1 << 20
LENGTH_BYTES, ALIGNMENT = 8, 8
MAX_HEADER_BYTES = 100_000_000
"""Of the library safetensors, which reads no longer one."""
METADATA = "__metadata__"


def copy_described(source: Path, target: Path, description: Mapping[str, str]) -> str:
    """Copy a safetensors file into a new one with texts in its header.

    Returns the digest of the source as it was read. Raises DamagedError if it is no such file.
    """
    with source.open("rb", buffering=0) as file, target.open("xb") as writer:
        reader = DigestingReader(file)
        writer.write(_described(source, _header(source, reader), description))
        while chunk := reader.read(CHUNK_BYTES):
            writer.write(chunk)
    return reader.digest()


def _header(source: Path, reader: DigestingReader) -> dict[str, object]:
    length = int.from_bytes(_exactly(reader, LENGTH_BYTES), "little")
    try:
        found = json.loads(_exactly(reader, length)) if length <= MAX_HEADER_BYTES else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise DamagedError(f"{source}: it is no safetensors file")
    return found


def _exactly(reader: DigestingReader, size: int) -> bytes:
    """Return so many bytes, or what there is."""
    found = io.BytesIO()
    while chunk := reader.read(size - found.tell()):
        found.write(chunk)
    return found.getvalue()


def _described(source: Path, header: dict[str, object], description: Mapping[str, str]) -> bytes:
    """Return length and header with a description, which lies over what the header says."""
    before = header.get(METADATA, {})
    if not isinstance(before, dict):
        raise DamagedError(f"{source}: {METADATA} of its header is no object")
    text = json.dumps(
        header | {METADATA: before | dict(description)}, separators=(",", ":")
    ).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text
