"""The store: key -> action record -> artifact id -> sealed directory. Nothing else is remembered.

    r1pipe-store.json          the format
    records/<key>.json         action records: what decides whether a stage is a hit
    objects/<artifact id>/     sealed, read-only: seal.json and <output>/...
    attempts/<key>/            private work (attempt.py)
    logs/<random>/             metrics, samples, facts; named by a record
    stats/<artifact id>        stat signatures (signatures.py); may be deleted at any time
    latest/<manifest>/<profile>/<stage>   symbolic links for people; never read
    tracked/<tracker>/         files of trackers of experiments; never read
    runs/, pins/, tags/, gone/, trash/, locks/, sources/

A record is only read by its key, and a directory by its digest, so neither clocks nor the store's
own path decide anything. Readers take no lock: whatever they can see is whole.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from pydantic import ConfigDict

from r1pipe import __version__
from r1pipe.errors import ArtifactError, DamagedError, StoreError
from r1pipe.keys import JsonObject
from r1pipe.store import disk, names, signatures
from r1pipe.store.actions import ActionRecord, read_record
from r1pipe.store.index import RecordIndex
from r1pipe.store.locks import KeyLock, describe_owner, file_lock, is_alive, read_owner
from r1pipe.store.preimages import nearest_record
from r1pipe.store.sealing import Seal
from r1pipe.store.state import Count, StateModel, read_state, set_aside, tell

if TYPE_CHECKING:
    from filelock import FileLock

    from r1pipe.store.attempt import Attempt

STORE_FORMAT = 1
BESIDE = (".", "README")
"""Names that a directory may hold before it becomes a store."""
FORMAT_NAME = "r1pipe-store.json"
MAX_FORMAT_BYTES = 1 << 16


class _Format(StateModel):
    model_config = ConfigDict(extra="ignore")

    format: Count
    r1pipe: str


class Store:
    """A store in a directory, made when first written to."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.objects = self.root / "objects"
        self.records_dir = self.root / "records"
        self.logs = self.root / "logs"
        self.stats = self.root / "stats"
        self.trash = self.root / "trash"
        self.sources = self.root / "sources"
        self._intact: set[str] = set()
        self._found: dict[str, ActionRecord | None] = {}
        self._records: list[ActionRecord] | None = None
        self._known: list[ActionRecord] | None = None
        self._is_prepared = False
        self._has_format = True
        self._check_format()

    def _check_format(self) -> None:
        path = self.root / FORMAT_NAME
        if os.path.islink(self.root) and not os.path.exists(self.root):
            raise StoreError(
                f"{self.root}: a link to {self.root.readlink()}, which does not exist; "
                "make that folder or name another store"
            )
        if os.path.exists(self.root) and not self.root.is_dir():
            raise StoreError(f"{self.root}: a file, not a store; name a directory")
        above = next((each for each in self.root.parents if each.exists()), None)
        if above is not None and not above.is_dir():
            raise StoreError(f"{self.root}: {above} is a file; name a directory for the store")
        try:
            found = read_state(path, _Format, MAX_FORMAT_BYTES)
            if found is None and self.root.is_dir():
                others = [p.name for p in self.root.iterdir() if not p.name.startswith(BESIDE)]
                found = read_state(path, _Format, MAX_FORMAT_BYTES)
                if others and found is None:  # and no other process has made the store meanwhile
                    self._take_for_store(others, f"it has no {FORMAT_NAME}")
        except DamagedError as error:
            self._take_for_store([p.name for p in self.root.iterdir()], str(error))
            return
        except OSError as error:
            raise StoreError(
                f"{self.root}: cannot be read as a store: {disk.said(error)}; mend its permissions"
                " or name another directory"
            ) from error
        if found is not None and found.format > STORE_FORMAT:
            raise StoreError(
                f"{self.root}: store format {found.format} (written by r1pipe {found.r1pipe}), "
                f"this r1pipe {__version__} reads {STORE_FORMAT}: upgrade r1pipe; nothing was "
                "written"
            )

    def _take_for_store(self, names: Sequence[str], why: str) -> None:
        """Go on without the format, if the folder holds what only a store does.

        A newer store is still refused: its records, seals and attempts have their own formats.
        """
        if not {"records", "objects"} <= {*names}:
            raise StoreError(
                f"{self.root}: not a store of r1pipe (it holds '{names[0]}'; {why}); choose an "
                "empty directory"
            )
        tell(
            f"{self.root}: {why}; it holds records and objects, so it is taken for a store of "
            f"format {STORE_FORMAT}"
        )
        self._has_format = False

    def prepare(self) -> None:
        """Make the directories and the format file before the first write."""
        if self._is_prepared:
            return
        with disk.store_errors(self.root, "the store cannot be made"):
            if not os.path.exists(self.root):
                with disk.place_errors(self.root):
                    self.root.mkdir(parents=True, exist_ok=True)  # others may make it now
            if not self._has_format or not (self.root / FORMAT_NAME).exists():
                value = {"format": STORE_FORMAT, "r1pipe": __version__}
                disk.place_json(self.root / FORMAT_NAME, value)
            for path in (
                self.objects,
                self.records_dir,
                self.logs,
                self.stats,
                self.trash,
                self.sources,
            ):
                path.mkdir(exist_ok=True)
            for name in ("attempts", "locks"):
                (self.root / name).mkdir(exist_ok=True)
        self._is_prepared = True

    # Reading -------------------------------------------------------------------------------

    def record_path(self, key: str) -> Path:
        """Return where the action record of a key is placed."""
        return self.records_dir / f"{key}.json"

    def lookup(self, key: str) -> ActionRecord | None:
        """Return the action record of a key, or None; an edited record is a DamagedError."""
        if key not in self._found:
            self._found[key] = read_record(self.record_path(key), key)
        return self._found[key]

    def forget(self, key: str) -> None:
        """Read a key's record from the disk again: another process may have placed one."""
        self._found.pop(key, None)
        self._records = self._known = None

    def is_intact(self, record: ActionRecord) -> bool:
        """Return whether a record's artifact is here, whole; a damaged one is a DamagedError.

        Files whose stat signature is the one remembered are not read again.
        """
        artifact = record.artifact_id
        root = self.objects / artifact
        if not root.is_dir():
            self._intact.discard(artifact)
            return False
        if artifact in self._intact:
            return True
        try:
            if not signatures.is_unchanged(root, self.stats / artifact):
                seal = signatures.verify(root, artifact, self.stats / artifact)
                self._check_outputs(record, seal)
        except (FileNotFoundError, NotADirectoryError):
            if root.is_dir():
                raise
            return False
        self._intact.add(artifact)
        return True

    def _check_outputs(self, record: ActionRecord, seal: Seal) -> None:
        if dict(record.outputs) != dict(seal.outputs):
            raise DamagedError(
                f"{self.record_path(record.key)}: expected outputs {dict(seal.outputs)}, "
                f"found {dict(record.outputs)}"
            )

    def set_artifact_aside(self, artifact: str) -> None:
        """Move a damaged artifact out of the way, so that no record of it is a hit."""
        self._intact.discard(artifact)
        if os.path.lexists(self.objects / artifact):
            set_aside(self.root, self.objects / artifact)

    def set_record_aside(self, key: str) -> None:
        """Move a damaged action record out of the way, so that its key is no longer a hit."""
        self.forget(key)
        if os.path.lexists(self.record_path(key)):
            set_aside(self.root, self.record_path(key))

    def artifact_dir(self, artifact_id: str) -> Path:
        """Return the sealed directory of an artifact."""
        path = self.objects / artifact_id
        if not path.is_dir():
            raise ArtifactError(
                f"artifact {artifact_id[:12]} is not in {self.root}; 'r1pipe plan' says what "
                "rebuilds it"
            )
        return path

    def has_artifact(self, record: ActionRecord) -> bool:
        """Return whether a record's artifact is here, whole or not."""
        return (self.objects / record.artifact_id).is_dir()

    def output_dir(self, record: ActionRecord, output: str) -> Path:
        """Return the sealed directory of one output of a record."""
        if output not in record.outputs:
            raise ArtifactError(
                f"{record.stage_name} has no output '{output}'; it has {', '.join(record.outputs)}"
            )
        return self.artifact_dir(record.artifact_id) / output

    def metrics(self, record: ActionRecord) -> list[JsonObject]:
        """Return the metrics of a record's stage, one mapping per step."""
        from r1pipe.store.metrics import read_metrics

        return read_metrics(self.logs / record.logs)

    def samples(self, record: ActionRecord) -> list[JsonObject]:
        """Return the sample rows that a record's stage kept."""
        from r1pipe.store.metrics import read_samples

        return read_samples(self.logs / record.logs)

    def records(self) -> list[ActionRecord]:
        """Return all action records that can be read, sorted by key; read once per `Store`."""
        if self._records is None:
            self._records = RecordIndex(self.root, self.records_dir).records()
        return self._records

    def known(self) -> list[ActionRecord]:
        """Return all action records like `records`, sooner, as they were when last checked."""
        if self._known is None:
            self._known = self._records or RecordIndex(self.root, self.records_dir).known()
        return self._known

    def readable(self, key: str) -> ActionRecord | None:
        """Return the action record of a key like `lookup`, or None where it is damaged."""
        try:
            return self.lookup(key)
        except DamagedError:
            return None

    def nearest(
        self, stage: str, preimage: Mapping[str, object], manifest: str
    ) -> ActionRecord | None:
        """Return the readable result that is most like a preimage (`preimages.nearest_record`)."""
        records = self.known()
        while (found := nearest_record(stage, preimage, records, manifest)) is not None:
            if (record := self.readable(found.key)) is not None:
                return record
            records = [each for each in records if each is not found]
        return None

    def resolve(self, name: str) -> ActionRecord:
        """Return the record with a name: stage, stage@7f3a, tag, or an id's prefix."""
        found = names.resolve(self.root, self.known(), name)
        return self.lookup(found.key) or found

    # Writing -------------------------------------------------------------------------------

    def attempt(self, key: str) -> Attempt:
        """Return the attempt at a key, begun or not."""
        from r1pipe.store.attempt import Attempt

        return Attempt(self.root / "attempts" / key)

    def attempts(self, stage: str) -> list[Attempt]:
        """Return the attempts at a stage that are not finished, the one begun last at the end."""
        from r1pipe.store.attempt import attempts_in

        return attempts_in(self.root / "attempts", stage)

    def lock(self, key: str) -> KeyLock:
        """Return the lock of a key."""
        return KeyLock(self.root / "locks", key)

    def lock_owner(self, key: str) -> str | None:
        """Return which living process holds the lock of a key, or None."""
        owner = read_owner(self.root / "locks" / f"{key}.owner")
        return describe_owner(owner) if owner and is_alive(owner) else None

    def publishing(self) -> FileLock:
        """Return the lock between placing objects and records, and the collection of garbage."""
        return file_lock(self.root / "locks" / "publish.lock")

    def link_latest(self, manifest: str, profile: str | None, stage: str, artifact: str) -> None:
        """Point `latest/<manifest>/<profile>/<stage>` at an artifact, for people."""
        parts = [quote(part, safe="") for part in (manifest, profile or "default", stage)]
        if {".", ".."} & {*parts}:
            return
        link = self.root.joinpath("latest", *parts)
        target = f"../../../objects/{artifact}"
        with suppress(OSError):
            if link.is_symlink() and str(link.readlink()) == target:
                return
            link.parent.mkdir(parents=True, exist_ok=True)
            temporary = link.with_name(f".{link.name}.{disk.token()}")
            temporary.symlink_to(target)
            temporary.replace(link)
