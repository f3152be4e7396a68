"""Collect garbage: artifacts that neither a pin, a tag, nor a last or running run needs.

Dry unless told to move. What is collected goes to the trash, from where it can be restored until
the trash is emptied. Action records and logs stay: they are small, they are the lineage of what was
deleted, and finished stages after a collected artifact still hit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from r1pipe.errors import ArtifactError
from r1pipe.store import disk, roots
from r1pipe.store.actions import ActionRecord
from r1pipe.store.locks import LockBusy
from r1pipe.store.sealing import read_seal
from r1pipe.store.store import Store
from r1pipe.store.transfer import INCOMING

COLLECTED = "collected-"


@dataclass(frozen=True)
class Doomed:
    """One thing that no root needs."""

    path: Path
    size: int
    what: str


@dataclass
class GcReport:
    """The things that a collection moves to the trash."""

    doomed: list[Doomed] = field(default_factory=list)
    kept: int = 0
    resumable: list[str] = field(default_factory=list)
    trash: Path | None = None

    def add(self, path: Path, size: int, what: str) -> None:
        """Count one thing, and move it where that was asked for."""
        self.doomed.append(Doomed(path, size, what))
        if self.trash is not None:
            disk.move_tree(path, self.trash / path.name)

    @property
    def size(self) -> int:
        """Bytes of all that is doomed."""
        return sum(item.size for item in self.doomed)

    def lines(self) -> list[str]:
        """Return the report as text."""
        verb = f"moved to {self.trash}" if self.trash else "would be moved to the trash"
        lines = [f"{item.size:>15} bytes  {item.what}" for item in self.doomed]
        lines.append(f"{len(self.doomed)} things, {self.size} bytes {verb}; {self.kept} kept")
        if self.resumable:
            lines.append(f"attempts that can still be resumed: {', '.join(self.resumable)}")
        return lines


def root_keys(store: Store) -> set[str]:
    """Return the keys whose artifacts stay: pins, tags, the last runs and running ones."""
    keys = roots.pins(store.root) | set(roots.tags(store.root).values())
    for run in roots.last_runs(store.root):
        keys.update(run.stages.values())
    return keys | roots.live_keys(store.root)


def collect_garbage(store: Store, *, move: bool = False, attempts: bool = False) -> GcReport:
    """Find what no root needs and, with `move`, move it to the trash.

    `attempts` gives up the attempts, too, that no process works on and that could be resumed.
    """
    report = GcReport()
    if not store.objects.is_dir():
        return report
    with store.publishing():
        keys = root_keys(store)
        records = store.records()
        kept = {record.artifact_id for record in records if record.key in keys}
        if move:
            report.trash = store.trash / f"{COLLECTED}{disk.token()}"
        _find_objects(store, report, records, kept)
        _find_logs(store, report, records)
        _find_attempts(store, report, attempts)
        _find_incoming(store, report)
    return report


def _find_objects(
    store: Store, report: GcReport, records: list[ActionRecord], kept: set[str]
) -> None:
    makers = {record.artifact_id: record for record in records}
    for path in sorted(store.objects.iterdir()):
        if path.name in kept:
            report.kept += 1
            continue
        record = makers.get(path.name)
        size = record.size if record else _size(path)
        name = f"{record.stage_name}@{path.name[:12]}" if record else f"unnamed {path.name[:12]}"
        report.add(path, size, name)


def _find_attempts(store: Store, report: GcReport, attempts: bool) -> None:
    """Find attempts that nobody works on: superseded ones, and all if asked for."""
    for path in _idle(store, store.root / "attempts"):
        state = store.attempt(path.name).state
        is_superseded = state is None or (
            store.record_path(path.name).exists() and not state.get("is_rebuild")
        )
        name = f"{(state or {}).get('stage', 'nothing')} ({path.name[:12]})"
        if is_superseded or attempts:
            report.add(path, _size(path), f"attempt at {name}")
        else:
            report.resumable.append(name)


def _find_incoming(store: Store, report: GcReport) -> None:
    """Find the leftovers of killed imports."""
    for path in _idle(store, store.root / INCOMING):
        report.add(path, _size(path), f"unfinished import {path.name}")


def _idle(store: Store, folder: Path) -> Iterator[Path]:
    """Yield the directories whose lock no process holds, each while its lock is held."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        lock = store.lock(path.name)
        try:
            lock.acquire()
        except LockBusy:
            continue
        try:
            yield path
        finally:
            lock.release()


def _find_logs(store: Store, report: GcReport, records: list[ActionRecord]) -> None:
    """Find logs that no record names: those of results that were built again."""
    named = {record.logs for record in records}
    for path in sorted(store.logs.iterdir()):
        if path.name not in named:
            report.add(path, _size(path), f"logs {path.name}")


def _size(path: Path) -> int:
    return sum(file.size for file in disk.walk(path)[0]) if path.is_dir() else 0


def empty_trash(store: Store) -> int:
    """Delete the contents of the trash for good; return how many bytes."""
    size = _size(store.trash)
    for path in store.trash.iterdir() if store.trash.is_dir() else ():
        disk.remove_tree(path)
    return size


def restore(store: Store, prefix: str) -> str:
    """Bring a collected artifact back from the trash; return its id."""
    found = [path for path in store.trash.glob(f"{COLLECTED}*/{prefix}*") if len(path.name) == 64]
    found = [path for path in found if (path / "seal.json").exists()]
    if len({path.name for path in found}) != 1:
        names = ", ".join(sorted({path.name[:16] for path in found})) or "nothing like it is there"
        raise ArtifactError(f"'{prefix}' does not name one artifact in the trash: {names}")
    artifact = found[0].name
    if read_seal(found[0]).artifact != artifact:
        raise ArtifactError(f"{found[0]} is not artifact {artifact}")
    with store.publishing():
        target = store.objects / artifact
        if not target.exists():
            disk.move_tree(found[0], target)
            target.chmod(0o555)
    return artifact
