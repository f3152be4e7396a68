"""Collect garbage: artifacts that neither a pin, a tag, nor a last or running run needs.

Dry unless told to move. What is collected goes to the trash, from where it can be restored until
the trash is emptied. Action records and logs stay: they are small, they are the lineage of what was
deleted, and finished stages after a collected artifact still hit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from r1pipe.errors import ArtifactError, DamagedError
from r1pipe.store import disk, roots
from r1pipe.store.actions import ActionRecord
from r1pipe.store.importing import INCOMING
from r1pipe.store.locks import LockBusy
from r1pipe.store.names import PREFIX
from r1pipe.store.sealing import read_seal
from r1pipe.store.store import Store

COLLECTED = "collected-"


DEAD_ENDS = (
    "it keeps something that cannot be named now, so nothing is moved; mend it, or give it up with"
    " 'r1pipe fsck --set-aside'"
)
ADVICE = "free space with 'r1pipe gc --empty-trash' or otherwise, then run the same command again"


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
    damage: list[str] = field(default_factory=list)
    """Roots that cannot be read: what they keep is not known."""

    def add(self, path: Path, what: str, size: int | None = None) -> None:
        """Count one thing, and move it where that was asked for; it may have gone by itself."""
        with suppress(FileNotFoundError):
            doomed = Doomed(path, _size(path) if size is None else size, what)
            if self.trash is not None:
                disk.move_tree(path, self.trash / path.name.removeprefix("."))
            self.doomed.append(doomed)

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
        return lines + [f"{text}; {DEAD_ENDS}" for text in self.damage]


def root_keys(store: Store) -> set[str]:
    """Return the keys whose artifacts stay: pins, tags, the last runs and running ones."""
    keys = roots.pins(store.root) | set(roots.tags(store.root).values())
    for run in roots.last_runs(store.root):
        keys.update(run.stages.values())
    return keys | roots.live_keys(store.root)


def collect_garbage(store: Store, *, move: bool = False, attempts: bool = False) -> GcReport:
    """Find what no root needs and, with `move`, move it to the trash.

    `attempts` gives up the attempts, too, that no process works on and that could be resumed.
    Without `move` nothing is written, so a full or read-only store can be looked at. Raises
    DamagedError rather than move anything while a root cannot be read.
    """
    report = GcReport()
    if not store.objects.is_dir():
        return report
    with (
        disk.store_errors(store.root, "nothing more can be moved to the trash", ADVICE),
        store.publishing() if move else nullcontext(),
    ):
        report.damage = [str(error) for error in roots.damage(store.root).values()]
        if move and report.damage:
            raise DamagedError("\n".join(f"{text}; {DEAD_ENDS}" for text in report.damage))
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
    for path in _entries(store.objects):
        if path.name in kept:
            report.kept += 1
            continue
        record = makers.get(path.name)
        name = f"{record.stage_name}@{path.name[:12]}" if record else f"unnamed {path.name[:12]}"
        report.add(path, name, record.size if record else None)


def _find_attempts(store: Store, report: GcReport, attempts: bool) -> None:
    """Find attempts that nobody works on: superseded ones, and all if asked for."""
    for path in _idle(store, store.root / "attempts", report.trash is not None):
        if path.name.startswith(disk.DEAD):
            report.add(path, f"deleted attempt {path.name}")
            continue
        state = store.attempt(path.name).state
        is_superseded = state is None or (
            store.record_path(path.name).exists() and not state.get("is_rebuild")
        )
        name = f"{(state or {}).get('stage', 'nothing')} ({path.name[:12]})"
        if is_superseded or attempts:
            report.add(path, f"attempt at {name}")
        else:
            report.resumable.append(name)


def _find_incoming(store: Store, report: GcReport) -> None:
    """Find the leftovers of killed imports."""
    for path in _idle(store, store.root / INCOMING, report.trash is not None):
        report.add(path, f"unfinished import {path.name}")


def _idle(store: Store, folder: Path, is_locked: bool) -> Iterator[Path]:
    """Yield the directories whose lock no process holds, each while its lock is held by us.

    Where nothing is to be moved no lock is taken: owners are looked up.
    """
    for path in _entries(folder):
        if path.name.startswith(disk.DEAD) or not is_locked:
            if store.lock_owner(path.name) is None:
                yield path
            continue
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
    for path in _entries(store.logs):
        if path.name not in named:
            report.add(path, f"logs {path.name}")


def _entries(folder: Path) -> list[Path]:
    """Return what is in a folder now; nothing of a folder that is not there (a half copy)."""
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _size(path: Path) -> int:
    """Return the bytes below a path; what goes meanwhile counts for nothing."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return sum(file.size for file in disk.walk(path)[0])
    return 0


def empty_trash(store: Store) -> int:
    """Delete the contents of the trash for good; return how many bytes.

    Needs no space, and writes nothing: it is the way out of a full disk.
    """
    size = _size(store.trash)
    with disk.store_errors(store.root, "the trash cannot be emptied", "mend the permissions"):
        for path in _entries(store.trash):
            disk.remove_tree(path)
    return size


def restore(store: Store, prefix: str) -> str:
    """Bring a collected artifact back from the trash; return its id."""
    if not PREFIX.fullmatch(prefix):
        raise ArtifactError(f"'{prefix}' is not the beginning of an artifact's id")
    found = [path for path in store.trash.glob(f"{COLLECTED}*/{prefix}*") if len(path.name) == 64]
    found = [path for path in found if (path / "seal.json").exists()]
    if len({path.name for path in found}) != 1:
        names = ", ".join(sorted({path.name[:16] for path in found})) or "nothing like it is there"
        raise ArtifactError(f"'{prefix}' does not name one artifact in the trash: {names}")
    artifact = found[0].name
    if read_seal(found[0]).artifact != artifact:
        raise ArtifactError(f"{found[0]} is not artifact {artifact}")
    with disk.store_errors(store.root, "it cannot be restored", ADVICE), store.publishing():
        target = store.objects / artifact
        if not target.exists():
            disk.move_tree(found[0], target)
            target.chmod(0o555)
    return artifact
