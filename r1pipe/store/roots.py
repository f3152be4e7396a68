"""Roots that keep artifacts from being collected: the last runs, running ones, pins and tags."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from r1pipe.errors import ArtifactError
from r1pipe.keys import JsonObject
from r1pipe.store import disk
from r1pipe.store.locks import file_lock, is_alive, this_process

KEPT_RUNS = 3
"""Runs that are remembered per manifest and profile."""
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class LastRun:
    """The results that one run of a manifest used: {stage: key}."""

    manifest: str
    profile: str | None
    stages: Mapping[str, str]
    created: str


def _run_path(root: Path, manifest: str, profile: str | None) -> Path:
    return root / "runs" / f"{quote(manifest, safe='')}+{quote(profile or '', safe='')}.json"


def remember_run(root: Path, run: LastRun, stages: Collection[str]) -> None:
    """Remember what a run used, the last one first; a run that used the same changes nothing.

    What a run did not reach is taken over from the one before, for the manifest's `stages`.
    """
    path = _run_path(root, run.manifest, run.profile)
    if _merged(run, disk.read_json(path) or [], stages) is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(root / "locks" / "runs.lock"):
        known = disk.read_json(path) or []
        if (merged := _merged(run, known, stages)) is not None:
            row = {"manifest": run.manifest, "profile": run.profile, "stages": merged}
            disk.place_json(path, [{**row, "created": run.created}, *known][:KEPT_RUNS])


def _merged(
    run: LastRun, known: list[JsonObject], stages: Collection[str]
) -> dict[str, str] | None:
    before: dict[str, str] = known[0]["stages"] if known else {}
    kept = {name: key for name, key in before.items() if name in stages}
    merged = {**kept, **run.stages}
    return None if merged == before else merged


def last_runs(root: Path) -> list[LastRun]:
    """Return the remembered runs, the last one first (by the time that they noted)."""
    runs = []
    for path in sorted((root / "runs").glob("*.json")):
        if not path.name.startswith("live-"):
            runs += [LastRun(**row) for row in disk.read_json(path) or []]
    return sorted(runs, key=lambda run: run.created, reverse=True)


class LiveRun:
    """Tells the garbage collection which keys a running process relies on."""

    def __init__(self, root: Path) -> None:
        self.path = root / "runs" / f"live-{disk.token()}.json"
        self._is_written = False

    def rely_on(self, keys: list[str]) -> None:
        """Name the keys whose artifacts must stay."""
        self._is_written = True
        disk.place_json(self.path, {"owner": this_process(), "keys": keys}, durable=False)

    def end(self) -> None:
        """Rely on nothing any more."""
        if self._is_written:  # a store that is only readable was never written to
            self.path.unlink(missing_ok=True)


def live_keys(root: Path) -> set[str]:
    """Return the keys that running processes rely on; forgets those of dead ones."""
    keys: set[str] = set()
    for path in (root / "runs").glob("live-*.json"):
        value = disk.read_json(path)
        if value is None:
            continue
        if is_alive(value["owner"]):
            keys.update(value["keys"])
        else:
            path.unlink(missing_ok=True)
    return keys


def tag_path(root: Path, name: str) -> Path:
    """Return the file of a tag."""
    return root / "tags" / f"{quote(name, safe='')}.json"


def add_tag(root: Path, name: str, key: str) -> None:
    """Give a record a name of its own; a tag that is there already moves."""
    if not TAG.fullmatch(name):
        raise ArtifactError(
            f"'{name}' cannot be a tag; use letters, digits, dots, dashes and underscores"
        )
    disk.place_json(tag_path(root, name), {"name": name, "key": key})


def remove_tag(root: Path, name: str) -> None:
    """Remove a tag."""
    if not tag_path(root, name).exists():
        raise ArtifactError(f"no tag '{name}'; there are: {', '.join(tags(root)) or 'none'}")
    tag_path(root, name).unlink()


def tags(root: Path) -> dict[str, str]:
    """Return {tag: key}."""
    values: list[JsonObject] = [
        disk.read_json(path) for path in sorted((root / "tags").glob("*.json"))
    ]
    return {value["name"]: value["key"] for value in values}


def pin(root: Path, key: str) -> None:
    """Keep a record's artifact from being collected."""
    disk.place_json(root / "pins" / f"{key}.json", {"key": key})


def unpin(root: Path, key: str) -> None:
    """Let a record's artifact be collected again."""
    path = root / "pins" / f"{key}.json"
    if not path.exists():
        raise ArtifactError(f"{key[:12]} is not pinned")
    path.unlink()


def pins(root: Path) -> set[str]:
    """Return the pinned keys."""
    return {path.stem for path in (root / "pins").glob("*.json") if path.name[0] != "."}
