"""Warm starts: results and attempts whose params differ only in the field that says how far to go.

A kind that names a field of its params in `EXTENDS` says that a larger value of it goes on where a
smaller one ended. All else of the preimage must be equal, so configurations are never mixed; the
stage itself checks that what it takes over is what it would have made.
"""

from __future__ import annotations

from pathlib import Path

from r1pipe.errors import DamagedError
from r1pipe.keys import JsonObject
from r1pipe.stage import StageKind
from r1pipe.store.actions import ActionRecord
from r1pipe.store.store import Store
from r1pipe.text import short_id


def is_extension(kind: StageKind, old: JsonObject, new: JsonObject) -> bool:
    """Return whether two preimages differ in the field that a kind extends, and only there."""
    if kind.extends is None or old == new:
        return False
    return _fixed_part(kind, old) == _fixed_part(kind, new)


def _fixed_part(kind: StageKind, preimage: JsonObject) -> JsonObject:
    params = {name: value for name, value in preimage["params"].items() if name != kind.extends}
    return {**preimage, "params": params}


def previous_record(store: Store, kind: StageKind, preimage: JsonObject) -> ActionRecord | None:
    """Return the finished result that goes furthest among those that a stage can go on from."""
    if kind.extends is None:
        return None
    found = [record for record in store.records() if is_extension(kind, record.preimage, preimage)]
    found.sort(key=lambda record: _extent(kind, record.preimage), reverse=True)
    return next((record for record in found if _is_usable(store, record)), None)


def _extent(kind: StageKind, preimage: JsonObject) -> float:
    value = preimage["params"].get(kind.extends, 0)
    return value if isinstance(value, int | float) else 0


def _is_usable(store: Store, record: ActionRecord) -> bool:
    try:
        return store.is_intact(record)
    except DamagedError:
        return False  # a run that reads that stage says so; here it is only not used


def previous_work(store: Store, kind: StageKind, preimage: JsonObject) -> Path | None:
    """Return the working directory of the unfinished attempt that has the most in its journals."""
    if kind.extends is None:
        return None

    best: tuple[int, Path] | None = None
    for folder in sorted((store.root / "attempts").iterdir()):
        attempt = store.attempt(folder.name)
        state, work = attempt.state or {}, attempt.work
        if work is None or state.get("is_rebuild") or "preimage" not in state:
            continue
        if is_extension(kind, state["preimage"], preimage):
            size = sum(attempt.journal_sizes().values())
            if size and (best is None or size > best[0]):
                best = size, work
    return None if best is None else best[1]


def warm_start_text(kind: StageKind, record: ActionRecord) -> str:
    """Say what a stage goes on from."""
    value = record.preimage["params"].get(kind.extends, "by default")
    label = f"{record.stage_name}@{short_id(record.artifact_id)}"
    return f"goes on from {label} ({kind.extends} {value}), whose rows are used again"
