"""Roots that keep artifacts from being collected: the last runs, running ones, pins and tags.

A file of a run, a running process or a tag that is damaged keeps something that nobody can name:
`damage` says which, and nothing is collected while there is any.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar, cast
from urllib.parse import quote

from pydantic import Field

from r1pipe.errors import ArtifactError, DamagedError
from r1pipe.regular import UnfitError, parse_json, read_regular
from r1pipe.store import disk
from r1pipe.store.locks import Owner, file_lock, is_alive, this_process
from r1pipe.store.state import (
    MAX_BYTES,
    Count,
    HexId,
    StateModel,
    checked,
    read_state,
    set_aside,
    tell,
    write_state,
)

KEPT_RUNS = 3
"""Runs that are remembered per manifest and profile."""
LIVE = "live-"
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
T = TypeVar("T")


class LastRun(NamedTuple):
    """The results that one run of a manifest used: {stage: key}."""

    manifest: str
    profile: str | None
    stages: Mapping[str, str]
    created: str
    sequence: int = 0
    """Orders the runs of a store, whatever their clocks said."""


class _Run(StateModel):
    manifest: str
    profile: str | None
    stages: dict[str, HexId]
    created: Annotated[str, Field(max_length=64)]
    sequence: Count = 0


class _Runs(StateModel):
    runs: list[_Run]


class _Live(StateModel):
    owner: dict[str, str | int]
    keys: list[HexId]


class _Tag(StateModel):
    name: Annotated[str, Field(pattern=f"^{TAG.pattern}$")]
    key: HexId


# Runs ------------------------------------------------------------------------------------


def _run_path(root: Path, manifest: str, profile: str | None) -> Path:
    return root / "runs" / f"{quote(manifest, safe='')}+{quote(profile or '', safe='')}.json"


def _run_paths(root: Path) -> Iterator[Path]:
    for path in sorted((root / "runs").glob("*.json")):
        if not path.name.startswith((LIVE, ".")):
            yield path


def read_runs(path: Path) -> list[LastRun]:
    """Return the runs of one manifest and profile, the last one first; DamagedError if it must."""
    try:
        found = read_state(path, _Runs)
    except DamagedError:
        if (found := _runs_without_digest(path)) is None:
            raise
    return [] if found is None else [LastRun(**dict(run)) for run in found.runs]


def _runs_without_digest(path: Path) -> _Runs | None:
    """Return a file as earlier versions wrote it: a list; None for any other."""
    with suppress(OSError, UnfitError):
        value = parse_json(read_regular(path, MAX_BYTES))
        return checked(_Runs, {"runs": value}, path) if isinstance(value, list) else None
    return None


def remember_run(root: Path, run: LastRun, stages: Collection[str]) -> None:
    """Remember what a run used, the last one first; a run that used the same changes nothing.

    What a run did not reach is taken over from the one before, for the manifest's `stages`.
    """
    path = _run_path(root, run.manifest, run.profile)
    with suppress(DamagedError):
        if _merged(run, read_runs(path), stages) is None:
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(root / "locks" / "runs.lock"):
        known = _known_runs(root, path)
        if (merged := _merged(run, known, stages)) is not None:
            last = max((each.sequence for each in last_runs(root)), default=0)
            new = LastRun(run.manifest, run.profile, merged, run.created, last + 1)
            rows = [each._asdict() for each in [new, *known][:KEPT_RUNS]]
            write_state(path, {"runs": rows})


def _known_runs(root: Path, path: Path) -> list[LastRun]:
    try:
        return read_runs(path)
    except DamagedError as error:
        where = set_aside(root, path)
        tell(f"{error}; moved to {where}; what only earlier runs used is not kept by it any more")
        return []


def _merged(run: LastRun, known: list[LastRun], stages: Collection[str]) -> dict[str, str] | None:
    before = known[0].stages if known else {}
    kept = {name: key for name, key in before.items() if name in stages}
    merged = {**kept, **run.stages}
    return None if merged == before else merged


def last_runs(root: Path) -> list[LastRun]:
    """Return the remembered runs, the last one first; damaged files of them are passed over."""
    runs = [run for found in _readable(_run_paths(root), read_runs) for run in found]
    return sorted(runs, key=lambda run: (run.sequence, run.created), reverse=True)


def _readable(paths: Iterator[Path], read: Callable[[Path], T]) -> Iterator[T]:
    for path in paths:
        with suppress(DamagedError):
            yield read(path)


# Running processes -----------------------------------------------------------------------


class LiveRun:
    """Tells the garbage collection which keys a running process relies on."""

    def __init__(self, root: Path) -> None:
        self.path = root / "runs" / f"{LIVE}{disk.token()}.json"
        self._is_written = False

    def rely_on(self, keys: list[str]) -> None:
        """Name the keys whose artifacts must stay."""
        self._is_written = True
        write_state(self.path, {"owner": this_process(), "keys": keys})

    def end(self) -> None:
        """Rely on nothing any more."""
        if self._is_written:  # a store that is only readable was never written to
            with suppress(OSError):
                self.path.unlink(missing_ok=True)


def live_keys(root: Path) -> set[str]:
    """Return the keys that running processes rely on; forgets those of dead ones."""
    keys: set[str] = set()
    for path in (root / "runs").glob(f"{LIVE}*.json"):
        with suppress(DamagedError):
            found = read_state(path, _Live)
            if found is None:
                continue
            if is_alive(cast(Owner, found.owner)):
                keys.update(found.keys)
            else:
                with suppress(OSError):  # a store that is only readable
                    path.unlink(missing_ok=True)
    return keys


# Tags and pins ---------------------------------------------------------------------------


def tag_path(root: Path, name: str) -> Path:
    """Return the file of a tag."""
    return root / "tags" / f"{quote(name, safe='')}.json"


def tagged(root: Path, name: str) -> str | None:
    """Return the key that a tag names, or None if there is no such tag.

    Raises DamagedError where its file is not what was written: it may have named anything.
    """
    if not TAG.fullmatch(name):
        return None
    path = tag_path(root, name)
    try:
        found = read_state(path, _Tag)
        if found is not None and found.name != name:
            raise DamagedError(f"{path}: damaged: it is of the tag '{found.name}'")
    except DamagedError as error:
        raise DamagedError(
            f"{error}; tag the artifact again ('r1pipe tag {name} ARTIFACT') or take the tag away "
            f"('r1pipe tag {name} --remove')"
        ) from error
    return None if found is None else found.key


def add_tag(root: Path, name: str, key: str) -> None:
    """Give a record a name of its own for good; a tag that names another record is refused."""
    if not TAG.fullmatch(name):
        raise ArtifactError(
            f"'{name}' cannot be a tag; use letters, digits, dots, dashes and underscores"
        )
    with suppress(DamagedError):  # a damaged tag is written anew
        there = tagged(root, name)
        if there not in (None, key):
            raise ArtifactError(
                f"tag '{name}' names the result of key {str(there)[:12]}, and may be cited so;"
                f" take a new name, such as '{name}-2', or take it away first: r1pipe tag {name}"
                " --remove"
            )
    write_state(tag_path(root, name), {"name": name, "key": key})


def remove_tag(root: Path, name: str) -> None:
    """Remove a tag."""
    if not TAG.fullmatch(name) or not tag_path(root, name).exists():
        raise ArtifactError(f"no tag '{name}'; there are: {', '.join(tags(root)) or 'none'}")
    tag_path(root, name).unlink()


def tags(root: Path) -> dict[str, str]:
    """Return {tag: key}; damaged tags are passed over."""
    names = [path.stem for path in sorted((root / "tags").glob("[!.]*.json"))]
    found: dict[str, str] = {}
    for name in names:
        with suppress(DamagedError):
            if (key := tagged(root, name)) is not None:
                found[name] = key
    return found


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
    """Return the pinned keys; the names of the files say them."""
    return {path.stem for path in (root / "pins").glob("*.json") if path.name[0] != "."}


# Damage ----------------------------------------------------------------------------------


def damage(root: Path) -> dict[Path, DamagedError]:
    """Return the files of runs, running processes and tags that cannot be read, and why."""
    runs, tag_files = root / "runs", root / "tags"
    checks: dict[Path, Callable[[], object]] = {
        **{path: partial(read_runs, path) for path in _run_paths(root)},
        **{path: partial(read_state, path, _Live) for path in runs.glob(f"{LIVE}*.json")},
        **{path: partial(tagged, root, path.stem) for path in tag_files.glob("[!.]*.json")},
    }
    found = {}
    for path, check in sorted(checks.items()):
        try:
            check()
        except DamagedError as error:
            found[path] = error
    return found
