"""Push artifacts to a store elsewhere, and pull them: only what is missing goes over.

A pull is an import (`store/importing.py`): every file is of the size and the digest that the seal
says, or nothing of the artifact is placed. A push or pull that was killed goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from r1pipe.errors import ArtifactError, DamagedError
from r1pipe.regular import UnfitError, parse_json
from r1pipe.sharing.remote import Content, Remote, as_stream
from r1pipe.store.actions import ActionRecord
from r1pipe.store.importing import import_from
from r1pipe.store.names import PREFIX
from r1pipe.store.sealing import MAX_SEAL_BYTES, SEAL_NAME, Seal, read_seal
from r1pipe.store.state import MAX_BYTES
from r1pipe.store.store import Store
from r1pipe.store.transfer import CARD_NAME, EXPORT_FORMAT, LOG_NAMES, ancestors

Tell = Callable[[str], None]


@dataclass
class Exchange:
    """What a push or pull has done."""

    artifacts: int = 0
    files: int = 0
    bytes: int = 0
    there: int = 0
    """Artifacts of which nothing had to go over."""


def push(store: Store, remote: Remote, records: Sequence[ActionRecord], tell: Tell) -> Exchange:
    """Push artifacts with the records of all that they were made from.

    Raises ArtifactError if the other store has another result of a key: neither is overwritten.
    """
    done = Exchange()
    blobs, seals, keys = (remote.names(name) for name in ("blobs", "artifacts", "records"))
    for record in records:
        if record.key in keys:  # perhaps only since something was made from it
            _refuse_other(remote, record)
            if record.artifact_id in seals:
                done.there += 1
                continue
        store.is_intact(record)
        root = store.artifact_dir(record.artifact_id)
        seal = read_seal(root)
        files = _missing_blobs(root, seal, blobs)
        done.files += len(files)
        done.bytes += sum(p.stat().st_size for p in files.values() if not isinstance(p, bytes))
        if seal.artifact not in seals:
            files[f"artifacts/{seal.artifact}"] = root / SEAL_NAME
        for name in LOG_NAMES:
            if (path := store.logs / record.logs / name).is_file():
                files[f"logs/{record.logs}/{name}"] = path
        for each in (*ancestors(record, store.records()), record):
            if each.key not in keys:
                files[f"records/{each.key}"] = json.dumps(each.to_json()).encode()
        remote.put(files)
        keys[record.key] = seals[seal.artifact] = 0
        done.artifacts += 1
        tell(f"{record.stage_name}@{record.artifact_id[:12]}: {len(files)} files")
    return done


def _missing_blobs(root: Path, seal: Seal, blobs: dict[str, int]) -> dict[str, Content]:
    """Return the files of an artifact that are not among the blobs; they are among them then."""
    files: dict[str, Content] = {}
    for entry in seal.files:
        if blobs.get(entry.digest) != entry.size:
            files[_blob(entry.digest)] = root / entry.path
            blobs[entry.digest] = entry.size
    return files


def _refuse_other(remote: Remote, record: ActionRecord) -> None:
    there = _record(remote, record.key)
    if there.artifact_id != record.artifact_id:
        raise ArtifactError(
            f"{remote.url}: has another result of the key of {record.stage_name},"
            f" {there.artifact_id[:12]}, not {record.artifact_id[:12]}; pull that one into a store"
            " of its own, or push elsewhere"
        )


def pull(store: Store, remote: Remote, names: Sequence[str], tell: Tell) -> Exchange:
    """Pull artifacts by stage, id or key; all that are sealed there without names."""
    done = Exchange()
    keys, seals = remote.names("records"), remote.names("artifacts")
    if not keys:
        raise ArtifactError(
            f"{remote.url}: holds no artifacts, or is not there; 'r1pipe store push' brings them"
        )
    records = [_record(remote, key) for key in sorted(keys)]
    for record in _named(remote, [r for r in records if r.artifact_id in seals], names):
        here = store.readable(record.key)
        if here is not None and here.artifact_id == record.artifact_id and store.is_intact(here):
            done.there += 1
            continue
        archive = _Archive(remote, record, records)
        import_from(store, remote.url, archive, f"pull{record.artifact_id[:32]}")
        done.artifacts += 1
        done.files += archive.num_files
        done.bytes += archive.num_bytes
        tell(f"{record.stage_name}@{record.artifact_id[:12]}: {archive.num_files} files")
    return done


def _named(
    remote: Remote, records: Sequence[ActionRecord], names: Sequence[str]
) -> list[ActionRecord]:
    """Return the records that names name, a stage's all; sorted by the time they were made."""
    found = {record.key: record for record in records if not names}
    for name in names:
        fit = [r for r in records if name == r.stage_name or _has_id(r, name)]
        if not fit:
            stages = ", ".join(sorted({record.stage_name for record in records}))
            raise ArtifactError(f"{remote.url}: no artifact '{name}'; there are: {stages}")
        found.update({record.key: record for record in fit})
    return sorted(found.values(), key=lambda record: record.created)


def _has_id(record: ActionRecord, name: str) -> bool:
    """Return whether a name is stage@7f3a, or the beginning of an id."""
    stage, at, prefix = name.partition("@")
    if at and stage != record.stage_name:
        return False
    prefix = prefix if at else name
    ids = (record.artifact_id, record.key)
    return PREFIX.fullmatch(prefix) is not None and any(i.startswith(prefix) for i in ids)


def _record(remote: Remote, key: str) -> ActionRecord:
    where = f"{remote.url}/records/{key}"
    try:
        value = parse_json(remote.read(f"records/{key}", MAX_BYTES) or b"")
    except UnfitError as error:
        raise DamagedError(f"{where}: expected an action record, found that {error}") from error
    record = ActionRecord.from_json(value, where)
    if record.key != key:
        raise DamagedError(f"{where}: expected key {key}, found {record.key}")
    return record


def _blob(digest: str) -> str:
    return f"blobs/{digest[:2]}/{digest}"


class _Archive:
    """An artifact elsewhere as the export that an import reads."""

    def __init__(
        self, remote: Remote, record: ActionRecord, records: Sequence[ActionRecord]
    ) -> None:
        self.num_files = self.num_bytes = 0
        self._remote, self._record = remote, record
        self._above = ancestors(record, list(records))
        self._sealed: bytes | None = None
        self._digests: dict[str, str] | None = None

    def open(self, name: str) -> tuple[IO[bytes], int] | None:
        """Open a file of the export."""
        if name == CARD_NAME:
            above = [each.to_json() for each in self._above]
            card = {"format": EXPORT_FORMAT, "record": self._record.to_json(), "ancestors": above}
            return as_stream(json.dumps(card).encode())
        if name == f"object/{SEAL_NAME}":
            return as_stream(self._seal())
        if name.startswith("logs/"):
            return self._remote.open(f"logs/{self._record.logs}/{name.removeprefix('logs/')}")
        digest = self._digest(name.removeprefix("object/"))
        found = None if digest is None else self._remote.open(_blob(digest))
        if found is not None:
            self.num_files += 1
            self.num_bytes += found[1]
        return found

    def _seal(self) -> bytes:
        """Return the seal's bytes, read once: what the import has checked is what is used."""
        if self._sealed is None:
            name = f"artifacts/{self._record.artifact_id}"
            self._sealed = self._remote.read(name, MAX_SEAL_BYTES) or b""
        return self._sealed

    def _digest(self, path: str) -> str | None:
        if self._digests is None:
            self._digests = dict(_listed(self._seal()))
        return self._digests.get(path)


def _listed(data: bytes) -> list[tuple[str, str]]:
    value = parse_json(data)
    files = value.get("files", []) if isinstance(value, dict) else []
    return [(str(path), str(digest)) for path, _, digest in files if _is_digest(digest)]


def _is_digest(digest: object) -> bool:
    return isinstance(digest, str) and len(digest) == 64 and PREFIX.fullmatch(digest) is not None
