"""Export an artifact to a directory or a tar file, and import it into another store.

    r1pipe-artifact.json    the record, and the records of everything that it was made from
    object/                 the sealed directory
    logs/                   metrics, samples, facts

Bytes are digested while they are copied, on both ways. With the records of its ancestors an import
is a hit where it came from the same preimage, though no ancestor's artifact was brought along.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from r1pipe.errors import ArtifactError, DamagedError, StoreError
from r1pipe.keys import DigestingReader, JsonObject, copy_and_digest, copy_stream
from r1pipe.store import disk
from r1pipe.store.actions import ActionRecord
from r1pipe.store.publish import place_object
from r1pipe.store.sealing import SEAL_NAME, Seal, read_seal
from r1pipe.store.store import Store

EXPORT_FORMAT = 1
CARD_NAME = "r1pipe-artifact.json"
INCOMING = "incoming"
LOG_NAMES = ("metrics.jsonl", "samples.jsonl", "facts.json", "spent.json")
MAX_CARD_BYTES = 1 << 28

Add = Callable[[Path, str], str]
"""Copies a file under a name and returns the digest of what was copied."""
OpenEntry = Callable[[str], IO[bytes] | None]
"""Opens a file of an export by name, None where there is none."""


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
    if destination.exists():
        raise ArtifactError(f"{destination} exists; name a new directory or .tar file")
    root = store.artifact_dir(record.artifact_id)
    seal = read_seal(root)
    card = {
        "format": EXPORT_FORMAT,
        "record": record.to_json(),
        "ancestors": [each.to_json() for each in ancestors(record, store.records())],
    }
    writing = _tar_writer if destination.suffix == ".tar" else _folder_writer
    with writing(destination, json.dumps(card, sort_keys=True).encode()) as add:
        add(root / SEAL_NAME, f"object/{SEAL_NAME}")
        for entry in seal.files:
            digest = add(root / entry.path, f"object/{entry.path}")
            if digest != entry.digest:
                raise DamagedError(
                    f"{root / entry.path}: expected digest {entry.digest}, found {digest}"
                )
        for name in LOG_NAMES:
            if (path := store.logs / record.logs / name).exists():
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
        with suppress(FileNotFoundError):
            writing.unlink()
        raise


def _add_stream(tar: tarfile.TarFile, stream: IO[bytes], name: str, size: int) -> str:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    reader = DigestingReader(stream)
    tar.addfile(info, reader)
    return reader.digest()


def import_artifact(store: Store, source: Path) -> ActionRecord:
    """Bring an exported artifact into a store, verified; return its record.

    Only names that its own seal lists are read, so an archive cannot write elsewhere.
    """
    if not source.exists():
        raise ArtifactError(f"{source} does not exist; name what 'r1pipe export' wrote")
    store.prepare()
    name = disk.token()
    incoming = store.root / INCOMING / name
    with (
        disk.store_errors(store.root, f"{source} cannot be imported"),
        store.lock(name).held(),
        _reader(source) as open_,
    ):
        try:
            record, above = _read_card(source, open_)
            _refuse_other_result(store, source, record)
            seal = _copy_object(source, open_, record, incoming / "object")
            _copy_logs(open_, incoming / "logs")
            if dict(seal.outputs) != dict(record.outputs):
                raise DamagedError(f"{source}: the record's outputs are not those that were sealed")
            _place(store, record, above, incoming)
        finally:
            disk.remove_tree(incoming)
    return record


@contextmanager
def _reader(source: Path) -> Iterator[OpenEntry]:
    if source.is_dir():

        def open_file(name: str) -> IO[bytes] | None:
            path = source / name
            return path.open("rb") if path.is_file() and not path.is_symlink() else None

        yield open_file
        return
    try:
        with tarfile.open(source, "r:") as tar:
            members = {member.name: member for member in tar if member.isreg()}

            def open_member(name: str) -> IO[bytes] | None:
                return tar.extractfile(members[name]) if name in members else None

            yield open_member
    except tarfile.TarError as error:
        raise DamagedError(
            f"{source}: expected a tar file of an artifact, found {error}"
        ) from error


def _read_card(source: Path, open_: OpenEntry) -> tuple[ActionRecord, list[ActionRecord]]:
    where = f"{source}: {CARD_NAME}"
    stream = open_(CARD_NAME)
    if stream is None:
        raise ArtifactError(f"{where} is missing; '{source.name}' is not an exported artifact")
    try:
        with stream:
            card: JsonObject = json.loads(stream.read(MAX_CARD_BYTES))
        if card["format"] > EXPORT_FORMAT:
            raise StoreError(
                f"{where}: export format {card['format']}, this r1pipe reads {EXPORT_FORMAT}: "
                "upgrade r1pipe"
            )
        record = ActionRecord.from_json(card["record"], where)
        return record, [ActionRecord.from_json(each, where) for each in card["ancestors"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{where}: expected an action record, found {error}") from error


def _refuse_other_result(store: Store, source: Path, record: ActionRecord) -> None:
    """Refuse a second result of one key; the user decides which one stays."""
    here = store.lookup(record.key)
    is_other = here is not None and here.artifact_id != record.artifact_id
    if is_other and here is not None and (store.objects / here.artifact_id).is_dir():
        raise ArtifactError(
            f"{source}: the store has another result of the same key, "
            f"{here.stage_name}@{here.artifact_id[:12]}; export and delete that one first"
        )


def _copy_object(source: Path, open_: OpenEntry, record: ActionRecord, target: Path) -> Seal:
    _copy_entry(source, open_, f"object/{SEAL_NAME}", target / SEAL_NAME)
    seal = read_seal(target)
    if seal.artifact != record.artifact_id:
        raise DamagedError(
            f"{source}: expected artifact {record.artifact_id}, found {seal.artifact}"
        )
    for entry in seal.files:
        path = Path(entry.path)
        if path.is_absolute() or ".." in path.parts or len(path.parts) < 2:
            raise DamagedError(f"{source}: the seal lists {entry.path!r}, which leads out of it")
        digest = _copy_entry(source, open_, f"object/{entry.path}", target / entry.path)
        if digest != entry.digest:
            raise DamagedError(
                f"{source}: object/{entry.path}: expected digest {entry.digest}, found {digest}"
            )
    for file in disk.walk(target)[0]:
        (target / file.path).chmod(0o444)
    for folder in disk.directories(target):
        if folder != target:
            folder.chmod(0o555)
        disk.fsync_path(folder)
    return seal


def _copy_entry(source: Path, open_: OpenEntry, name: str, target: Path) -> str:
    stream = open_(name)
    if stream is None:
        raise DamagedError(f"{source}: expected {name}, found no such file")
    target.parent.mkdir(parents=True, exist_ok=True)
    with stream, target.open("xb") as writer:
        digest = copy_stream(stream, writer)
    disk.fsync_path(target)
    return digest


def _copy_logs(open_: OpenEntry, target: Path) -> None:
    target.mkdir(parents=True)
    for name in LOG_NAMES:
        if (stream := open_(f"logs/{name}")) is not None:
            with stream:
                (target / name).write_bytes(stream.read())


def _place(store: Store, record: ActionRecord, above: list[ActionRecord], incoming: Path) -> None:
    with store.publishing():
        place_object(store, record, incoming / "object")
        if not (store.logs / record.logs).exists():
            (incoming / "logs").rename(store.logs / record.logs)
        for each in (*above, record):
            if each is record or not store.record_path(each.key).exists():
                disk.place_json(store.record_path(each.key), each.to_json())
                store.forget(each.key)
