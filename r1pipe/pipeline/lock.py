"""The lock of a run: what every stage's key was made of, and which bytes came of it.

A lock is a file that people keep beside a manifest and hand on: `r1pipe run --locked` stops where a
run departs from it, and `r1pipe reproduce` runs it again elsewhere and compares.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from r1pipe.costs.versions import present_versions
from r1pipe.errors import ArtifactError, ManifestError
from r1pipe.keys import JsonObject, key_of
from r1pipe.machine import cpu_name
from r1pipe.manifest import Manifest, StageNode
from r1pipe.manifest.graph import refs_of
from r1pipe.pipeline.commands import run_command
from r1pipe.pipeline.planning import plan
from r1pipe.pipeline.processor import instructions, is_here
from r1pipe.pipeline.resolution import Resolver, preimage_of
from r1pipe.pipeline.why import origin_of
from r1pipe.store.actions import ActionRecord
from r1pipe.store.disk import place_errors, place_text
from r1pipe.store.preimages import ABSENT, different, flatten
from r1pipe.store.store import Store
from r1pipe.text import short_id

MAX_BYTES = 64 << 20
MISSING = "missing"
Hash = Field(pattern=r"^[0-9a-f]{64}$")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Score(_Part):
    """A measure with its 95 % interval."""

    value: float
    low: float
    high: float

    def agrees_with(self, other: Score) -> bool:
        """Return whether each value lies inside the other's interval."""
        return other.low <= self.value <= other.high and self.low <= other.value <= self.high


class LockedStage(_Part):
    """One stage: the preimage of its key, its artifact, and the scores of an evaluation."""

    preimage: JsonObject
    artifact: str = Hash
    scores: dict[str, Score] = {}
    """pass@1 by benchmark."""


class Lock(_Part):
    """The file, as JSON."""

    format: Literal[1] = 1
    manifest: str
    """The manifest's file, as seen from the folder of the lock."""
    profile: str | None
    overrides: list[str]
    versions: dict[str, str]
    """Of the packages that compute."""
    processor: str = ""
    """Its name; training on another kind may round otherwise. Empty in locks of before."""
    instructions: list[str] = []
    """Its instruction sets, of those that tell generations apart. Empty in locks of before."""
    sources: dict[str, str]
    stages: dict[str, LockedStage]

    @property
    def is_of_here(self) -> bool:
        """Whether it names this machine's processor."""
        return is_here(self.processor, self.instructions)


def lock_path(manifest: Path, profile: str | None) -> Path:
    """Return where the lock of a manifest is looked for: beside it."""
    return manifest.with_name("-".join([manifest.stem, *([profile] if profile else [])]) + ".lock")


def make_lock(manifest: Manifest, store: Store, path: Path) -> Lock:
    """Return the lock of a manifest whose stages are all in the store, to be kept at `path`.

    Raises ArtifactError if one is not.
    """
    resolver = Resolver(manifest, store)
    planned = plan(manifest, store, resolver=resolver)
    missing = [stage.name for stage in planned.stages if stage.name not in planned.records]
    if missing:
        more = f", and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise ArtifactError(
            f"not built yet: {', '.join(missing[:5])}{more}; a lock holds the result of every"
            f" stage; first run: {run_command(manifest, store)}"
        )
    return Lock(
        manifest=os.path.relpath(manifest.path, path.parent),
        profile=manifest.profile,
        overrides=list(manifest.overrides),
        versions=present_versions(),
        processor=cpu_name(),
        instructions=instructions(),
        sources={name: resolver.source_id(name) or MISSING for name in _sources(manifest)},
        stages={
            name: LockedStage(
                preimage=record.preimage, artifact=record.artifact_id, scores=scores(record, store)
            )
            for name, record in planned.records.items()
        },
    )


def scores(record: ActionRecord, store: Store) -> dict[str, Score]:
    """Return the pass@1 of an evaluation by benchmark; none of another stage, or of lost data."""
    if record.kind != "evaluate" or not store.has_artifact(record):
        return {}
    path = store.output_dir(record, "report") / "summary.json"
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))["benchmarks"]
    return {name: Score.model_validate(each["pass@1"]) for name, each in found.items()}


def write_lock(lock: Lock, path: Path) -> None:
    """Write a lock; the same stages give the same bytes."""
    text = json.dumps(lock.model_dump(), indent=1, sort_keys=True, ensure_ascii=False)
    with place_errors(path):
        place_text(path, text + "\n")


def num_replaced(lock: Lock, path: Path) -> int:
    """Return how many results of the lock that is at `path` now are not those of another."""
    with suppress(ManifestError):
        before = {name: stage.artifact for name, stage in read_lock(path).stages.items()}
        now = {name: stage.artifact for name, stage in lock.stages.items()}
        return sum(now.get(name) != artifact for name, artifact in before.items())
    return 0


def read_lock(path: Path) -> Lock:
    """Read a lock; raise ManifestError if it is none."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ManifestError(f"{path}: a lock has at most {MAX_BYTES >> 20} MiB")
        lock = Lock.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        text = f"{path}: no such lock; `r1pipe lock` writes one of a manifest that was run"
        raise ManifestError(text) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ManifestError(f"{path}: not a lock: {place}: {first['msg']}") from error
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}") from error
    return lock


def fitting_lock(path: Path, lock: Lock) -> Path | None:
    """Return the lock beside `path` that is of the same run, made on this machine's processor.

    None if there is none, or if the lock at `path` is itself of this processor.
    """
    if lock.is_of_here:
        return None
    for beside in sorted(path.parent.glob("*.lock")):
        with suppress(ManifestError):  # package managers have locks of their own
            other = read_lock(beside)
            if other.is_of_here and _run_of(other) == _run_of(lock):
                return beside
    return None


def check_recipe(lock: Lock, manifest: Manifest, resolver: Resolver) -> None:
    """Raise ManifestError if the manifest, the code's versions or the sources are not the lock's.

    What its stages read from one another is not looked at.
    """
    found = [
        *_names(lock.stages, manifest.stages),
        *(
            text
            for name, node in manifest.stages.items()
            if name in lock.stages
            for text in _departures(node, lock.stages[name])
        ),
        *(
            f"source {name} is {short_id(now)}, locked is {short_id(lock.sources[name])}"
            for name in sorted(lock.sources.keys() & manifest.sources.keys())
            if (now := resolver.source_id(name) or MISSING) != lock.sources[name]
        ),
    ]
    if found:
        raise ManifestError(
            *found, "this is not what was locked; run without the lock, or write a new one"
        )


def check_result(lock: Lock, name: str, record: ActionRecord) -> None:
    """Raise ArtifactError if a stage's result is not the locked one."""
    locked = lock.stages[name]
    if record.artifact_id == locked.artifact:
        return
    raise ArtifactError(
        f"{name}: the locked artifact is {short_id(locked.artifact)}, this one is"
        f" {short_id(record.artifact_id)}, of {_same_key(locked, record)}; {versions_text(lock)}."
        " What was built is kept; run without --locked to go on with it"
    )


def versions_text(lock: Lock) -> str:
    """Say which packages that compute have other versions than when the lock was written, and
    whether the processor is another one."""
    now, here = present_versions(), cpu_name()
    changed = [
        f"{name} {lock.versions.get(name, 'absent')} -> {now.get(name, 'absent')}"
        for name in sorted({*now, *lock.versions})
        if now.get(name) != lock.versions.get(name)
    ]
    said = (
        f"versions differ: {', '.join(changed)}" if changed else "all versions are the locked ones"
    )
    if lock.is_of_here:
        return said
    locked = f"the lock's is {lock.processor}" if lock.processor else "the lock names none"
    if lock.processor == here:
        locked += f" with {' '.join(lock.instructions)}"
        here += f" with {' '.join(instructions())}"
    return (
        f"{said}; the processor here is {here}, {locked}: another kind of processor may round"
        " training otherwise"
    )


def _run_of(lock: Lock) -> tuple[str, str | None, list[str]]:
    return lock.manifest, lock.profile, lock.overrides


def _same_key(locked: LockedStage, record: ActionRecord) -> str:
    is_same = key_of(locked.preimage) == record.key
    return "the same key" if is_same else "other inputs"


def _sources(manifest: Manifest) -> list[str]:
    """Return the sources that stages read; a profile may leave others unread."""
    refs = (ref for node in manifest.stages.values() for ref in refs_of(node.inputs))
    return sorted({ref.name for ref in refs if ref.is_source})


def _names(locked: Iterable[str], here: Iterable[str]) -> Iterator[str]:
    for name in sorted({*locked} ^ {*here}):
        yield f"stage {name}: only one of lock and manifest has it"


def _departures(node: StageNode, locked: LockedStage) -> Iterator[str]:
    """Yield in what a stage's own part of the preimage is not the locked one, with its place."""
    old, new = flatten({**locked.preimage, "inputs": {}}), flatten(preimage_of(node, {}))
    for path in different(old, new):
        origin = origin_of(node, path)
        place = f"{origin}: " if origin else ""
        now, was = new.get(path, ABSENT), old.get(path, ABSENT)
        yield f"{place}stage {node.name}: {path} is {now}, locked is {was}"
