"""The private directory in which one key is worked on, found again by the key after a kill.

    attempts/<key>/attempt.json          names the working directory that counts
    attempts/<key>/work-<n>-<random>/    out/<output>/, checkpoints/, journal/, logs/
    attempts/<key>/sealed-<random>/      outputs on their way into the store
    attempts/<key>/prepared.json         the action record on its way into the store

Every beginning makes a new working directory under a name nobody knows and copies into it what is
sealed in the last one: checkpoints by digest, journals by whole frames. A child that outlived an
earlier beginning holds handles to old files and paths to a deleted directory: no later attempt
reads what it writes. Not defended: a process of the same user that searches the store for files.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from r1pipe.errors import StoreError
from r1pipe.keys import JsonObject
from r1pipe.store import checkpoints, disk, faults, journal

ATTEMPT_FORMAT = 1
STATE, PREPARED = "attempt.json", "prepared.json"
PARTS = ("out", "checkpoints", "journal", "logs")


class Attempt:
    """The attempt at one key; the caller holds the key's lock while it writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def state(self) -> JsonObject | None:
        """The content of `attempt.json`, or None before the first start."""
        state: JsonObject | None = disk.read_json(self.folder / STATE)
        if state is not None and state["format"] > ATTEMPT_FORMAT:
            raise StoreError(
                f"{self.folder}: attempt format {state['format']}, this r1pipe reads "
                f"{ATTEMPT_FORMAT}: upgrade r1pipe"
            )
        return state

    @property
    def work(self) -> Path | None:
        """The working directory that counts, or None."""
        state = self.state
        path = self.folder / str(state["work"]) if state else None
        return path if path is not None and path.is_dir() else None

    def progress(self) -> str | None:
        """Describe the saved progress, or return None if there is none."""
        if (self.folder / PREPARED).exists():
            return "finished, not yet published"
        if (work := self.work) is None:
            return None
        found = [f"step {step}" for step, _ in checkpoints.steps(work / "checkpoints")[:1]]
        for path in sorted((work / "journal").glob("*.jsonl")):
            if size := path.stat().st_size:
                found.append(f"{size} bytes of {path.stem}")
        return ", ".join(found) or None

    def begin(
        self, facts: Mapping[str, object], *, fresh: bool = False, journals_of: Path | None = None
    ) -> Path:
        """Make a new working directory from what the last one sealed (nothing if `fresh`).

        `facts` (for example the preimage) are kept in `attempt.json`. `journals_of` is the working
        directory of another attempt, whose journals are copied where this one has nothing.
        """
        old, state = self.work, self.state or {}
        epoch = int(state.get("epoch", 0)) + 1
        name = f"work-{epoch}-{disk.token()}"
        for part in PARTS:
            (self.folder / name / part).mkdir(parents=True)
        faults.point("attempt.begin")
        if journals_of is not None:
            with suppress(FileNotFoundError):  # it has been finished or begun again meanwhile
                _adopt_journals(journals_of, self.folder / name)
        elif old is not None and not fresh:
            _adopt(old, self.folder / name)
        faults.point("attempt.adopt")
        state = {**facts, "format": ATTEMPT_FORMAT, "epoch": epoch, "work": name}
        disk.place_json(self.folder / STATE, state)
        disk.fsync_path(self.folder.parent)
        faults.point("attempt.switch")
        for path in self.folder.iterdir():
            if path.name not in (STATE, name):
                disk.discard_tree(path) if path.is_dir() else path.unlink()
                faults.point("attempt.clean")
        return self.folder / name

    def remove(self) -> None:
        """Remove the attempt by one rename, then delete its files."""
        disk.discard_tree(self.folder)


def attempts_in(folder: Path, stage: str) -> list[Attempt]:
    """Return the attempts at a stage in a store's folder, the one begun last at the end."""
    found = []
    for path in sorted(folder.glob("*/" + STATE)):
        attempt = Attempt(path.parent)
        with suppress(OSError, ValueError):
            if (attempt.state or {}).get("stage") == stage:
                found.append((path.stat().st_mtime_ns, attempt))
    return [attempt for _, attempt in sorted(found, key=lambda pair: pair[0])]


def _adopt_journals(old: Path, new: Path) -> None:
    for path in (old / "journal").glob("*.jsonl"):
        journal.copy_whole_frames(path, new / "journal" / path.name)


def _adopt(old: Path, new: Path) -> None:
    """Copy the newest whole checkpoint, whole journal frames and the logs."""
    for _, path in checkpoints.steps(old / "checkpoints"):
        if checkpoints.copy_whole(path, new / "checkpoints" / path.name):
            break
    _adopt_journals(old, new)
    for path in (old / "logs").iterdir():
        if not path.name.startswith("."):
            shutil.copyfile(path, new / "logs" / path.name)
    for part in PARTS:
        disk.fsync_path(new / part)
