"""Export an artifact to a directory or a tar file (`importing.py` brings it into another store).

    r1pipe-artifact.json    the record, and the records of everything that it was made from
    object/                 the sealed directory
    logs/                   metrics, samples, facts

Bytes are digested while they are copied, on both ways. With the records of its ancestors an import
is a hit where it came from the same preimage, though no ancestor's artifact was brought along.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from r1pipe.errors import ArtifactError, DamagedError
from r1pipe.keys import DigestingReader, copy_and_digest
from r1pipe.store import disk
from r1pipe.store.actions import ActionRecord
from r1pipe.store.sealing import SEAL_NAME, Seal, read_seal
from r1pipe.store.store import Store

EXPORT_FORMAT = 1
CARD_NAME = "r1pipe-artifact.json"
LOG_NAMES = ("metrics.jsonl", "samples.jsonl", "facts.json", "spent.json")

Add = Callable[[Path, str], str]
"""Copies a file under a name and returns the digest of what was copied."""


def ancestors(record: ActionRecord, records: list[ActionRecord]) -> list[ActionRecord]:
    """Return the records of everything that an artifact was made from, each once."""
    by_key = {each.key: each for each in records}
    found: dict[str, ActionRecord] = {}
    pending = [record]
    while pending:
        for _, link in pending.pop().links():
            above = by_key.get(str(link.get("key")))
            if above is not None and above.key not in found:
                found[above.key] = above
                pending.append(above)
    return list(found.values())


def export(store: Store, record: ActionRecord, destination: Path) -> Seal:
    """Write an artifact to a new directory, or to a tar file when the name ends in `.tar`.

    Nothing is left at the destination when a byte is not what was sealed.
    """
    if os.path.lexists(destination):
        raise ArtifactError(f"{destination} exists; name a new directory or .tar file")
    root = store.artifact_dir(record.artifact_id)
    seal = read_seal(root)
    card = {
        "format": EXPORT_FORMAT,
        "record": record.to_json(),
        "ancestors": [each.to_json() for each in ancestors(record, store.records())],
    }
    writing = _tar_writer if destination.suffix == ".tar" else _folder_writer
    with disk.place_errors(destination), writing(destination, json.dumps(card).encode()) as add:
        add(root / SEAL_NAME, f"object/{SEAL_NAME}")
        for entry in seal.files:
            digest = add(root / entry.path, f"object/{entry.path}")
            if digest != entry.digest:
                raise DamagedError(
                    f"{root / entry.path}: expected digest {entry.digest}, found {digest}"
                )
        for name in LOG_NAMES:
            if (path := store.logs / record.logs / name).is_file():
                add(path, f"logs/{name}")
    return seal


@contextmanager
def _folder_writer(destination: Path, card: bytes) -> Iterator[Add]:
    writing = destination.with_name(f".{destination.name}.{disk.token()}")

    def add(source: Path, name: str) -> str:
        target = writing / name
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = copy_and_digest(source, target)
        disk.fsync_path(target)
        return digest

    try:
        writing.mkdir(parents=True)
        (writing / CARD_NAME).write_bytes(card)
        yield add
        for folder in disk.directories(writing):
            disk.fsync_path(folder)
        writing.rename(destination)
    except BaseException:
        disk.remove_tree(writing)
        raise


@contextmanager
def _tar_writer(destination: Path, card: bytes) -> Iterator[Add]:
    writing = destination.with_name(f".{destination.name}.{disk.token()}")
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(writing, "w", format=tarfile.PAX_FORMAT) as tar:
            _add_stream(tar, io.BytesIO(card), CARD_NAME, len(card))

            def add(source: Path, name: str) -> str:
                with source.open("rb") as file:
                    return _add_stream(tar, file, name, source.stat().st_size)

            yield add
        disk.fsync_path(writing)
        writing.rename(destination)
    except BaseException:
        with suppress(OSError):
            writing.unlink()
        raise


def _add_stream(tar: tarfile.TarFile, stream: IO[bytes], name: str, size: int) -> str:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    reader = DigestingReader(stream)
    tar.addfile(info, reader)
    return reader.digest()
