"""All action records at once, without opening ten thousand files.

A cache of the records' texts by file name and stat signature. It only serves `show`, `why`, `gc`
and names: whether a stage is a hit is decided by the record's own file.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from r1pipe import disk
from r1pipe.actions import ActionRecord
from r1pipe.errors import DamagedError, StoreError

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
        current = self._signatures()
        cached = self._read()
        known = {
            name: value
            for name, signature in current.items()
            if (item := cached.get(name)) is not None
            and item[0] == signature
            and (value := item[1]) is not None
        }
        missing = [name for name in current if name not in known]
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

    def _read(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            rows = [json.loads(line) for line in self.path.read_bytes().splitlines()]
            return {row[0]: row[1:] for row in rows}
        return {}

    def _read_one(self, name: str) -> ActionRecord | None:
        path = self.folder / name
        try:
            value = disk.read_json(path)
            return None if value is None else ActionRecord.from_json(value, str(path))
        except (DamagedError, StoreError, ValueError, OSError):
            return None

    def _write(self, current: dict[str, list[int]], known: dict[str, Any]) -> None:
        rows = (json.dumps([name, current[name], known[name]]) for name in sorted(known))
        with suppress(OSError):
            disk.place_text(self.path, "".join(row + "\n" for row in rows), durable=False)
