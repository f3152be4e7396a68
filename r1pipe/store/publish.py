"""Publish a finished attempt: seal, one rename of the directory, one atomically placed record.

The steps, each with its fault point (`faults.POINTS`). A kill before `prepare` leaves an attempt
that resumes; from `prepare` on, the next run finishes the publishing without running the stage.

1. collect  the outputs' files move into fresh directories, read-only, without writers, fsynced
2. seal     all are digested; `seal.json` is written
3. prepare  the action record is placed beside the sealed directory
4. rename   the sealed directory becomes `objects/<artifact id>`
5. logs     metrics, samples and facts move to `logs/`
6. record   the action record is placed: from here on the key is a hit
7. clean    stat signatures, the link for people, and the attempt goes
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from r1pipe.errors import DamagedError, StageError
from r1pipe.keys import JsonObject
from r1pipe.store import disk, faults, signatures
from r1pipe.store.actions import ActionRecord
from r1pipe.store.attempt import PREPARED, Attempt
from r1pipe.store.sealing import SEAL_NAME, collect, seal_tree
from r1pipe.store.state import StateModel, read_state, write_state
from r1pipe.store.store import Store


class _Prepared(StateModel):
    record: JsonObject
    sealed: Annotated[str, Field(pattern=r"^sealed-[0-9a-z]+$")]
    logs: Annotated[str, Field(pattern=r"^work-[0-9]+-[0-9a-z]+/logs$")]


def publish(
    store: Store, attempt: Attempt, draft: ActionRecord, outputs: Sequence[str]
) -> ActionRecord:
    """Publish what an attempt wrote; `draft` lacks ids and size. The key's lock is held."""
    work = attempt.work
    assert work is not None, "the attempt was begun"
    faults.point("publish.start")
    folders = {name: work / "out" / name for name in outputs}
    for name, folder in folders.items():
        if not folder.is_dir():
            raise StageError(f"{draft.stage_name}: wrote nothing to its output '{name}'")
    sealed = attempt.folder / f"sealed-{disk.token()}"
    collect(folders, sealed)
    faults.point("publish.collect")
    seal = seal_tree(sealed)
    faults.point("publish.seal")
    record = replace(draft, artifact_id=seal.artifact, outputs=dict(seal.outputs), size=seal.size)
    prepared = {"record": record.to_json(), "sealed": sealed.name, "logs": f"{work.name}/logs"}
    write_state(attempt.folder / PREPARED, prepared)
    faults.point("publish.prepare")
    _place(store, attempt, record, sealed, work / "logs")
    return record


def finish_prepared(store: Store, attempt: Attempt) -> ActionRecord | None:
    """Publish what a killed run had prepared; None when there is nothing, or it is not whole."""
    path = attempt.folder / PREPARED
    try:
        prepared = read_state(path, _Prepared)
        if prepared is None:
            return None
        record = ActionRecord.from_json(prepared.record, str(path))
        sealed = attempt.folder / prepared.sealed
        where = sealed if sealed.is_dir() else store.objects / record.artifact_id
        signatures.verify(where, record.artifact_id, store.stats / record.artifact_id)
    except (DamagedError, FileNotFoundError, NotADirectoryError):
        disk.remove_tree(path)
        return None
    _place(store, attempt, record, sealed, attempt.folder / prepared.logs)
    return record


def _place(store: Store, attempt: Attempt, record: ActionRecord, sealed: Path, logs: Path) -> None:
    with store.publishing():
        if sealed.is_dir():
            place_object(store, record, sealed)
        faults.point("publish.object")
        if logs.is_dir() and not (store.logs / record.logs).exists():
            disk.move_tree(logs, store.logs / record.logs)
            disk.fsync_path(store.logs)
        faults.point("publish.logs")
        disk.place_json(store.record_path(record.key), record.to_json())
        store.forget(record.key)
        faults.point("publish.record")
    names = (record.manifest_name, record.profile, record.stage_name)
    store.link_latest(*names, record.artifact_id)
    faults.point("publish.latest")
    attempt.remove()
    faults.point("publish.clean")


def place_object(store: Store, record: ActionRecord, sealed: Path) -> None:
    """Rename the sealed directory into place, unless the same bytes are there already."""
    target, stats = store.objects / record.artifact_id, store.stats / record.artifact_id
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        store.set_artifact_aside(record.artifact_id)
    if target.is_dir():
        try:
            if not signatures.is_unchanged(target, stats):
                signatures.verify(target, record.artifact_id, stats)
            disk.remove_tree(sealed)
            return
        except (DamagedError, FileNotFoundError):
            store.set_artifact_aside(record.artifact_id)
    files, _ = disk.walk(sealed)
    assert any(file.path == SEAL_NAME for file in files), "the directory was sealed"
    faults.point("publish.rename")
    disk.move_tree(sealed, target)
    target.chmod(0o555)
    disk.fsync_path(store.objects)
    with suppress(OSError):
        signatures.write_signatures(stats, files)
    faults.point("publish.stat")
