"""All action records at once, without opening ten thousand files.

A cache of the records' texts by file name and stat signature. It only serves `show`, `why`, `gc`
and names: whether a stage is a hit is decided by the record's own file.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from r1pipe.errors import DamagedError, StoreError
from r1pipe.store import disk
from r1pipe.store.actions import ActionRecord

INDEX_NAME = "records.index"
STALE_SHARE = 20
"""The index is written again when more than one record in this many was not in it."""


class RecordIndex:
    """The records in `folder`; the cache lies in `root`."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.path = root / INDEX_NAME
        self.folder = folder

    def records(self) -> list[ActionRecord]:
        """Return all readable records, sorted by key; damaged ones are left to `fsck`."""
        with _no_collection():
            current, cached = self._signatures(), self._read()
            known: dict[str, dict[str, Any]] = {}
            missing = []
            for name, signature in current.items():
                item = cached.get(name)
                if item is not None and item[1] == signature:
                    known[name] = item[2]
                else:
                    missing.append(name)
            for name in missing:
                if (record := self._read_one(name)) is not None:
                    known[name] = record.to_json()
            if missing and len(missing) * STALE_SHARE >= len(current):
                self._write(current, known)
            return [ActionRecord.trusted(known[name]) for name in sorted(known)]

    def _signatures(self) -> dict[str, list[int]]:
        found = {}
        with suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith(".json") and entry.name[0] != ".":
                    stat = entry.stat()
                    found[entry.name] = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        return found

    def _read(self) -> dict[str, list[Any]]:
        """Return {file name: [file name, signature, record]}."""
        with suppress(OSError, ValueError, IndexError, TypeError):
            return {row[0]: row for row in json.loads(self.path.read_bytes())}
        return {}

    def _read_one(self, name: str) -> ActionRecord | None:
        path = self.folder / name
        try:
            value = disk.read_json(path)
            return None if value is None else ActionRecord.from_json(value, str(path))
        except (DamagedError, StoreError, ValueError, OSError):
            return None

    def _write(self, current: dict[str, list[int]], known: dict[str, dict[str, Any]]) -> None:
        rows = [[name, current[name], known[name]] for name in sorted(known)]
        with suppress(OSError):
            disk.place_text(self.path, json.dumps(rows), durable=False)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Spare Python's cycle collector the walk over a hundred thousand new values, now and later."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
