"""All action records at once, without opening ten thousand files.

A cache of the records by stat signature, one column per field. It only serves `show`, `why`, `gc`
and names: whether a stage is a hit is decided by the record's own file. A value that many records
have, such as the inputs of a sweep, is stored and parsed once.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import TypeAlias

from r1pipe.errors import DamagedError, StoreError
from r1pipe.keys import JsonObject, digest_bytes
from r1pipe.regular import read_regular
from r1pipe.store import disk
from r1pipe.store.actions import ActionRecord, read_record

INDEX_NAME = "records.index"
SUFFIX = ".json"
MAX_INDEX_BYTES = 1 << 32
MAX_UNREAD = 50
STALE_SHARE = 20
"""The index is written again when it lacks more than `MAX_UNREAD` records, or one in this many."""
FIELDS = tuple(sorted({item.name for item in fields(ActionRecord)} - {"preimage"}))
PARTS = ("kind", "version", "params", "inputs", "plugins")
"""What a preimage is made of; its parts repeat more often than the whole. Most lack the last."""
NAMES = ("preimage", *FIELDS)
LAYOUT = f"r1pipe records 4: {','.join(PARTS + FIELDS)}:"
"""What the columns are; an index of another layout is made again."""

Signature = tuple[int, int, int]
"""Size, time of the last change in ns, inode."""
Column: TypeAlias = tuple[list[object], list[int] | None]
"""A value per row; or the different values, and a position among them per row."""


class RecordIndex:
    """The records in `folder`; the cache is in `root`."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.path = root / INDEX_NAME
        self.folder = folder

    def records(self) -> list[ActionRecord]:
        """Return all readable records, sorted by key; damaged ones are left to `fsck`."""
        with _no_collection():
            current = self._signatures()
            cached, signatures = self._read()
            then = _rows(json.loads(signatures))
            known = {
                name: record
                for (name, record), signature in zip(cached.items(), then, strict=True)
                if current.get(name) == signature
            }
            if self._is_stale(self._add_missing(known, current), current):
                self._write(known, current)
            return [known[name] for name in sorted(known)]

    def known(self) -> list[ActionRecord]:
        """Return all records like `records`, in half the time: files are told apart only by name.

        A record that was edited in its place is returned as it was when it was checked: read its
        own file before you use it.
        """
        with _no_collection():
            names = self._names()
            known, _ = self._read()
            new = {name for name in names - known.keys() if _is_record(name)}
            if self._is_stale(len(new), names):
                return self.records()
            for name in known.keys() - names:
                del known[name]
            if self._add_missing(known, new):
                known = dict(sorted(known.items()))
            return list(known.values())

    def _is_stale(self, num_missing: int, names: Collection[str]) -> bool:
        return num_missing > min(MAX_UNREAD, len(names) / STALE_SHARE)

    def _add_missing(self, known: dict[str, ActionRecord], names: Iterable[str]) -> int:
        """Read the records that are not known from their own files; return how many could be."""
        read = {name: self._read_one(name) for name in names if name not in known}
        new = {name: record for name, record in read.items() if record is not None}
        known.update(new)
        return len(new)

    def _names(self) -> set[str]:
        with suppress(FileNotFoundError):
            return set(os.listdir(self.folder))
        return set()

    def _signatures(self) -> dict[str, Signature]:
        found = {}
        with suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                if _is_record(entry.name):
                    with suppress(OSError):  # it has just gone, or is a link to nothing
                        stat = entry.stat()
                        found[entry.name] = stat.st_size, stat.st_mtime_ns, stat.st_ino
        return found

    def _read(self) -> tuple[dict[str, ActionRecord], bytes]:
        """Return what the index holds by name, and the signatures as JSON; nothing where it is
        not whole."""
        with suppress(OSError, ValueError):
            head, _, body = read_regular(self.path, MAX_INDEX_BYTES).partition(b"\n")
            if head.decode(errors="replace") == _head(body):
                signatures, _, table = body.partition(b"\n")
                parts, values = json.loads(table)
                preimages: list[object] = [_preimage(row) for row in _rows(parts)]
                records = map(_record, _rows([(preimages, None), *values]))
                return {f"{record.key}{SUFFIX}": record for record in records}, signatures
        return {}, b"[]"

    def _read_one(self, name: str) -> ActionRecord | None:
        with suppress(DamagedError, StoreError):
            return read_record(self.folder / name, name.removesuffix(SUFFIX))
        return None

    def _write(self, known: Mapping[str, ActionRecord], current: Mapping[str, Signature]) -> None:
        rows = dict(sorted(known.items()))
        table = (
            _columns([[record.preimage.get(part) for part in PARTS] for record in rows.values()]),
            _columns([[getattr(record, name) for name in FIELDS] for record in rows.values()]),
        )
        signatures = _columns([current[name] for name in rows])
        body = f"{json.dumps(signatures)}\n{json.dumps(table)}"
        with suppress(OSError):
            disk.place_text(self.path, f"{_head(body.encode())}\n{body}", durable=False)


def _is_record(name: str) -> bool:
    return name.endswith(SUFFIX) and name[0] != "."


def _head(body: bytes) -> str:
    """Return the first line of an index, so that a torn or an older one is not used."""
    return f"{LAYOUT} {digest_bytes(body)}"


def _preimage(parts: Sequence[object]) -> JsonObject:
    """Return the preimage of these parts, in the order of `PARTS`; None is one that it lacks."""
    return {name: part for name, part in zip(PARTS, parts, strict=True) if part is not None}


def _record(values: Sequence[object]) -> ActionRecord:
    """Return a record that was checked when it was indexed; ten thousand of them take a hundredth
    of a second, which is why the fields are not set one by one."""
    record = object.__new__(ActionRecord)
    record.__dict__.update(zip(NAMES, values, strict=True))
    return record


def _columns(rows: Sequence[Sequence[object]]) -> list[Column]:
    """Return rows as columns: each its values, or its different ones and a position per row."""
    return [_packed(column) for column in zip(*rows, strict=True)]


def _packed(column: Sequence[object]) -> Column:
    texts = [json.dumps(value) for value in column]
    first = dict(zip(texts, column, strict=True))
    if 2 * len(first) > len(column):
        return list(column), None
    places = {text: place for place, text in enumerate(first)}
    return list(first.values()), [places[text] for text in texts]


def _rows(columns: Sequence[Column]) -> Iterator[tuple[object, ...]]:
    """Return the rows that `_columns` was given."""
    unpacked = (
        values if places is None else map(values.__getitem__, places) for values, places in columns
    )
    return zip(*unpacked, strict=True)


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
