"""Check a store: every record, every seal, every file's name and size, and bytes by digest.

Without `full`, the bytes of files whose stat signature changed are read, and of the others a random
sample; with it, all. An artifact found damaged loses its stat signatures, so it cannot be a hit
afterwards even though nothing about it but its bytes gives it away.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from r1pipe.errors import DamagedError, R1PipeError, StoreError
from r1pipe.store import disk, roots, signatures, state
from r1pipe.store.actions import ActionRecord
from r1pipe.store.attempt import STATE, read_attempt
from r1pipe.store.sealing import Seal
from r1pipe.store.store import Store
from r1pipe.text import format_bytes

SAMPLE_BYTES = 1 << 30
"""How many bytes are read again where nothing looks changed."""


@dataclass(frozen=True)
class Finding:
    """One fault: the artifact or record, the stages that made it, and a message."""

    name: str
    stages: tuple[str, ...]
    message: str
    is_damage: bool = True


@dataclass
class FsckReport:
    """Counts of what was checked, and the findings."""

    records: int = 0
    artifacts: int = 0
    files: int = 0
    bytes_read: int = 0
    bytes_total: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def damage(self) -> list[Finding]:
        """The findings that must not be used; the others are for information."""
        return [finding for finding in self.findings if finding.is_damage]

    def lines(self) -> list[str]:
        """Return the report as text."""
        head = (
            f"{self.records:,} records, {self.artifacts:,} artifacts, {self.files:,} files;"
            f" {format_bytes(self.bytes_read)} of {format_bytes(self.bytes_total)} read;"
            f" {'damage found' if self.damage else 'no damage found'}"
        )
        lines = []
        for finding in self.findings:
            stages = f" ({', '.join(finding.stages)})" if finding.stages else ""
            what = "damaged" if finding.is_damage else "note"
            name = finding.name if "/" in finding.name else finding.name[:12]
            lines.append(f"{what}: {name}{stages}: {finding.message}")
        return [head, *lines]


def fsck(
    store: Store,
    *,
    full: bool = False,
    sample_bytes: int = SAMPLE_BYTES,
    seed: int | None = None,
    set_aside: bool = False,
) -> FsckReport:
    """Check a store; `set_aside` moves what is damaged to the trash."""
    report = FsckReport()
    records = list(_check_records(store, report, set_aside))
    report.records = len(records)
    makers: dict[str, list[ActionRecord]] = {}
    for record in records:
        makers.setdefault(record.artifact_id, []).append(record)
    rng = random.Random(seed)
    _Checker(store, report, makers, _Reading(full, sample_bytes, rng), set_aside).check_all()
    _check_state(store, report, set_aside)
    _check_names(store, report, {record.key for record in records})
    return report


def _check_records(store: Store, report: FsckReport, set_aside: bool) -> Iterator[ActionRecord]:
    """Yield the good records; report and move away the others."""
    for path in sorted(store.records_dir.glob("*.json")):
        if path.name[0] == ".":
            continue
        store.forget(path.stem)
        try:
            record = store.lookup(path.stem)
        except (DamagedError, StoreError) as error:
            report.findings.append(Finding(path.stem, (), str(error)))
            if set_aside and isinstance(error, DamagedError):
                store.set_record_aside(path.stem)
            continue
        if record is not None:
            yield record


@dataclass
class _Reading:
    """The bytes to read: all of them if `full`, else a random sample of `sample_bytes` in total."""

    full: bool
    sample_bytes: int
    rng: random.Random

    def choose(self, root: Path) -> frozenset[str]:
        """Choose the files of an object that are read though they look unchanged."""
        files, _ = disk.walk(root)
        self.rng.shuffle(files)
        chosen = set()
        for file in files:
            if file.size <= self.sample_bytes:
                self.sample_bytes -= file.size
                chosen.add(file.path)
        return frozenset(chosen)


class _Checker:
    def __init__(
        self,
        store: Store,
        report: FsckReport,
        makers: dict[str, list[ActionRecord]],
        reading: _Reading,
        set_aside: bool,
    ) -> None:
        self.store = store
        self.report = report
        self.makers = makers
        self.reading = reading
        self.set_aside = set_aside

    def check_all(self) -> None:
        """Check each object, in random order so that every sample is another one."""
        objects = [path for path in _folders(self.store.objects) if path.name[0] != "."]
        self.reading.rng.shuffle(objects)
        for path in objects:
            self._check(path)
        for artifact in sorted(self.makers.keys() - {path.name for path in objects}):
            message = "the artifact is gone; 'r1pipe plan' says what rebuilds it"
            self.report.findings.append(
                Finding(artifact, self._stages(artifact), message, is_damage=False)
            )

    def _check(self, root: Path) -> None:
        report, stats = self.report, self.store.stats / root.name
        report.artifacts += 1
        try:
            read_again = self.reading.choose(root)
            seal, read = signatures.verify_some(
                root, root.name, stats, read_again, self.reading.full
            )
            report.files += len(seal.files)
            report.bytes_total += seal.size
            report.bytes_read += read
            self._check_outputs(root.name, seal)
        except (R1PipeError, OSError) as error:
            report.findings.append(Finding(root.name, self._stages(root.name), str(error)))
            with suppress(OSError):  # a store that is only readable is still checked
                stats.unlink(missing_ok=True)
            makers = self.makers.get(root.name, [])
            if self.set_aside:
                self.store.set_artifact_aside(root.name)
            elif not makers:
                report.findings.append(
                    Finding(root.name, (), "no record names it", is_damage=False)
                )

    def _check_outputs(self, artifact: str, seal: Seal) -> None:
        for record in self.makers.get(artifact, []):
            if dict(record.outputs) != dict(seal.outputs):
                raise DamagedError(
                    f"{self.store.record_path(record.key)}: expected outputs "
                    f"{dict(seal.outputs)}, found {dict(record.outputs)}"
                )

    def _stages(self, artifact: str) -> tuple[str, ...]:
        return tuple(sorted({record.stage_name for record in self.makers.get(artifact, [])}))


def _check_state(store: Store, report: FsckReport, set_aside: bool) -> None:
    """Report files of runs, running processes, tags and attempts that cannot be read."""
    found = roots.damage(store.root)
    for path in sorted((store.root / "attempts").glob(f"[!.]*/{STATE}")):
        try:
            read_attempt(path)
        except DamagedError as error:
            found[path] = error
        except StoreError as newer:
            report.findings.append(Finding(path.parent.name, (), str(newer), is_damage=False))
    for path, damage in found.items():
        name = path.relative_to(store.root).as_posix()
        report.findings.append(Finding(name, (), str(damage)))
        if set_aside:
            state.set_aside(store.root, path)


def _check_names(store: Store, report: FsckReport, keys: set[str]) -> None:
    """Report pins and tags of records that are gone."""
    named = {f"tag {name}": key for name, key in roots.tags(store.root).items()}
    named |= {f"pin {key[:12]}": key for key in roots.pins(store.root)}
    for name, key in sorted(named.items()):
        if key not in keys:
            message = f"names the key {key}, which has no record"
            report.findings.append(Finding(name, (), message, is_damage=False))


def _folders(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else []
