"""Weights that say where they come from: ids and recipe in the header of a safetensors file.

A header is the length of its JSON (8 bytes, little-endian), the JSON, and then the tensors, whose
places count from the header's end. So the JSON's `__metadata__` can grow while the tensors' bytes
stay what they were (https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from r1pipe.errors import ArtifactError
from r1pipe.keys import CHUNK_BYTES, DigestingReader
from r1pipe.regular import UnfitError, parse_json

SUFFIX = ".safetensors"
LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
"""The format's own bound."""
METADATA = "__metadata__"


def copy_stamped(source: Path, target: Path, stamp: Mapping[str, str]) -> str:
    """Copy a safetensors file into a new one with more metadata; return the source's digest.

    The tensors are copied a chunk at a time. Raises ArtifactError if the header is none.
    """
    with source.open("rb", buffering=0) as raw, target.open("xb") as writer:
        reader = DigestingReader(raw)
        header = _header(reader, source)
        header[METADATA] = {**_metadata(header), **stamp}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % LENGTH_BYTES)  # tensors begin at a multiple of their size
        writer.write(len(text).to_bytes(LENGTH_BYTES, "little") + text)
        while chunk := reader.read(CHUNK_BYTES):
            writer.write(chunk)
        return reader.digest()


def _header(reader: DigestingReader, path: Path) -> dict[str, object]:
    """Read up to the first byte of the tensors, and return the header's JSON."""
    length = int.from_bytes(_exactly(reader, LENGTH_BYTES), "little")
    text = _exactly(reader, min(length, MAX_HEADER_BYTES))
    with suppress(UnfitError):
        value = parse_json(text if len(text) == length else b"")
        if isinstance(value, dict) and isinstance(value.get(METADATA, {}), dict):
            return value
    raise ArtifactError(
        f"{path}: it has no header of a safetensors file; 'r1pipe fsck' says whether it is damaged"
    )


def _metadata(header: Mapping[str, object]) -> Mapping[str, object]:
    found = header.get(METADATA, {})
    return found if isinstance(found, dict) else {}


def _exactly(reader: DigestingReader, size: int) -> bytes:
    """Read `size` bytes, or all that are left: a read may give fewer than it was asked for."""
    data = b""
    while len(data) < size and (chunk := reader.read(size - len(data))):
        data += chunk
    return data
