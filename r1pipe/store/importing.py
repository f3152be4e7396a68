"""Import what `transfer.export` wrote: verified, and written nowhere but into the store.

Only names that the export's own seal lists are read, every path and id in its records is checked
before it names a place, and a file's size is compared before its bytes are copied. What an import
cannot show is that its bytes are what its key says: that is its sender's word (`--verify`).
"""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Protocol, cast

from pydantic import Field

from r1pipe.errors import ArtifactError, DamagedError, StoreError
from r1pipe.keys import FileEntry, JsonObject, copy_stream, digest_file
from r1pipe.regular import UnfitError, open_regular, parse_json
from r1pipe.store import disk
from r1pipe.store.actions import ActionRecord
from r1pipe.store.publish import place_object
from r1pipe.store.sealing import MAX_SEAL_BYTES, SEAL_NAME, Seal, read_seal
from r1pipe.store.state import Count, StateModel, checked
from r1pipe.store.store import Store
from r1pipe.store.transfer import CARD_NAME, EXPORT_FORMAT, LOG_NAMES

INCOMING = "incoming"
MAX_CARD_BYTES = 1 << 28
MAX_LOG_BYTES = 1 << 29
MAX_READ_BYTES = 1 << 26
"""Of one read from a tar file: its headers are read whole, whatever size they claim."""
ADVICE = "nothing was imported: free space or fix the permissions, then run the same command again"


class _Card(StateModel):
    format: Count
    record: JsonObject
    ancestors: Annotated[list[JsonObject], Field(max_length=100_000)]


class Archive(Protocol):
    """The files of an export by name."""

    def open(self, name: str) -> tuple[IO[bytes], int] | None:
        """Open a file; return it with its size, or None where there is none."""


def import_artifact(store: Store, source: Path) -> tuple[ActionRecord, list[ActionRecord]]:
    """Bring an exported artifact into a store, verified.

    Returns its record, and the records (not the artifacts) of all that it was made from.
    """
    if not source.exists():
        raise ArtifactError(f"{source} does not exist; name what 'r1pipe export' wrote")
    doing = f"{source} cannot be imported"
    with disk.store_errors(store.root, doing, ADVICE), _archive(source) as archive:
        return import_from(store, str(source), archive)


def import_from(
    store: Store, source: str, archive: Archive, name: str | None = None
) -> tuple[ActionRecord, list[ActionRecord]]:
    """Import from an open archive; what comes under a `name` goes on there after a kill.

    Files that are whole are kept until the import ends well, or finds a damaged one.
    """
    store.prepare()
    folder = store.root / INCOMING / (name or disk.token())
    with (
        disk.store_errors(store.root, f"{source} cannot be imported", ADVICE),
        store.lock(folder.name).held(),
    ):
        is_kept = name is not None
        try:
            record, above = _read_card(source, archive)
            _refuse_other_result(store, source, record)
            seal = _copy_object(source, archive, record, folder / "object")
            _copy_logs(source, archive, folder / "logs")
            if dict(seal.outputs) != dict(record.outputs):
                raise DamagedError(f"{source}: the record's outputs are not those that were sealed")
            _place(store, record, above, folder)
            is_kept = False
        except DamagedError:
            is_kept = False
            raise
        finally:
            if not is_kept:
                disk.remove_tree(folder)
    return record, above


class _Folder:
    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self, name: str) -> tuple[IO[bytes], int] | None:
        path = self.root / name
        if path.is_symlink() or not path.is_file():
            return None
        return open_regular(path), path.stat().st_size


class _Tar:
    def __init__(self, tar: tarfile.TarFile) -> None:
        self.tar = tar
        self.members = {member.name: member for member in tar if member.isreg()}

    def open(self, name: str) -> tuple[IO[bytes], int] | None:
        member = self.members.get(name)
        file = None if member is None else self.tar.extractfile(member)
        return None if file is None or member is None else (file, member.size)


class _Bounded:
    """A file whose every read is bounded, for headers that claim to be huge."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_READ_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self.file.read(size)


@contextmanager
def _archive(source: Path) -> Iterator[Archive]:
    if source.is_dir():
        yield _Folder(source)
        return
    try:
        with (
            open_regular(source) as file,
            tarfile.open(fileobj=cast(IO[bytes], _Bounded(file)), mode="r:") as tar,
        ):
            yield _Tar(tar)
    except UnfitError as error:
        raise ArtifactError(f"{source}: {error}; name what 'r1pipe export' wrote") from error
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise DamagedError(
            f"{source}: expected a tar file of an artifact, found {error}"
        ) from error


def _read_card(source: str, archive: Archive) -> tuple[ActionRecord, list[ActionRecord]]:
    where = f"{source}: {CARD_NAME}"
    found = archive.open(CARD_NAME)
    if found is None:
        raise ArtifactError(f"{where} is missing; this is not an exported artifact")
    stream, size = found
    if size > MAX_CARD_BYTES:
        raise DamagedError(f"{where}: {size:,} bytes; expected an action record")
    try:
        with stream:
            value = parse_json(stream.read(size))
    except UnfitError as error:
        raise DamagedError(f"{where}: expected an action record, found that {error}") from error
    version = value.get("format") if isinstance(value, dict) else None
    if isinstance(version, int) and version > EXPORT_FORMAT:
        raise StoreError(
            f"{where}: export format {version}, this r1pipe reads {EXPORT_FORMAT}: upgrade r1pipe"
        )
    card = checked(_Card, value, where)
    record = ActionRecord.from_json(card.record, where)
    return record, [ActionRecord.from_json(each, where) for each in card.ancestors]


def _refuse_other_result(store: Store, source: str, record: ActionRecord) -> None:
    """Refuse a second result of one key; the user decides which one stays."""
    here = store.readable(record.key)
    is_other = here is not None and here.artifact_id != record.artifact_id
    if is_other and here is not None and (store.objects / here.artifact_id).is_dir():
        raise ArtifactError(
            f"{source}: the store has another result of the same key, "
            f"{here.stage_name}@{here.artifact_id[:12]}; export and delete that one first"
        )


def _copy_object(source: str, archive: Archive, record: ActionRecord, target: Path) -> Seal:
    (target / SEAL_NAME).unlink(missing_ok=True)  # of an import that was killed
    _copy_entry(source, archive, f"object/{SEAL_NAME}", target / SEAL_NAME)
    seal = read_seal(target)
    if seal.artifact != record.artifact_id:
        raise DamagedError(
            f"{source}: expected artifact {record.artifact_id}, found {seal.artifact}"
        )
    if any("/" not in entry.path for entry in seal.files):
        raise DamagedError(f"{source}: the seal lists a file that is in no output")
    free = shutil.disk_usage(target).free
    if seal.size > free:
        raise StoreError(f"{source}: needs {seal.size:,} bytes, {free:,} are free; {ADVICE}")
    for entry in seal.files:
        if _is_here(target / entry.path, entry):
            continue
        name = f"object/{entry.path}"
        digest = _copy_entry(source, archive, name, target / entry.path, entry.size)
        if digest != entry.digest:
            raise DamagedError(f"{source}: {name}: expected digest {entry.digest}, found {digest}")
    for file in disk.walk(target)[0]:
        (target / file.path).chmod(0o444)
    for folder in disk.directories(target):
        if folder != target:
            folder.chmod(0o555)
        disk.fsync_path(folder)
    return seal


def _is_here(path: Path, entry: FileEntry) -> bool:
    """Return whether an import that was killed has brought a file whole; a torn one goes."""
    if not path.is_file():
        return False
    if path.stat().st_size == entry.size and digest_file(path) == entry.digest:
        return True
    path.unlink()
    return False


def _copy_entry(
    source: str, archive: Archive, name: str, target: Path, expected: int | None = None
) -> str:
    """Copy a file of the expected size; of a seal the size is bounded only."""
    found = archive.open(name)
    if found is None:
        raise DamagedError(f"{source}: expected {name}, found no such file")
    stream, size = found
    with stream:
        if size > MAX_SEAL_BYTES if expected is None else size != expected:
            raise DamagedError(f"{source}: {name}: expected {expected} bytes, found {size}")
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as writer:
            digest = copy_stream(stream, writer)
    disk.fsync_path(target)
    return digest


def _copy_logs(source: str, archive: Archive, target: Path) -> None:
    disk.remove_tree(target)  # of an import that was killed
    target.mkdir(parents=True)
    for name in LOG_NAMES:
        if (found := archive.open(f"logs/{name}")) is None:
            continue
        stream, size = found
        with stream:
            if size > MAX_LOG_BYTES:
                raise DamagedError(f"{source}: logs/{name}: {size:,} bytes are no log")
            with (target / name).open("xb") as writer:
                copy_stream(stream, writer)


def _place(store: Store, record: ActionRecord, above: list[ActionRecord], incoming: Path) -> None:
    with store.publishing():
        place_object(store, record, incoming / "object")
        if not (store.logs / record.logs).exists():
            disk.move_tree(incoming / "logs", store.logs / record.logs)
        for each in (*above, record):
            if (here := store.readable(each.key)) is None:
                store.set_record_aside(each.key)
            if each is record or here is None:
                disk.place_json(store.record_path(each.key), each.to_json())
                store.forget(each.key)
