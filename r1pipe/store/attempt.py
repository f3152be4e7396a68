"""The private directory in which one key is worked on, found again by the key after a kill.

    attempts/<key>/attempt.json          names the working directory that counts
    attempts/<key>/work-<n>-<random>/    out/<output>/, checkpoints/, journal/, logs/, attempt.json
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
from typing import Annotated

from pydantic import ConfigDict, Field

from r1pipe.errors import DamagedError, StoreError
from r1pipe.keys import JsonObject
from r1pipe.store import checkpoints, disk, faults, journal
from r1pipe.store.state import Count, StateModel, checked, read_object, tell, write_state

ATTEMPT_FORMAT = 1
STATE, PREPARED = "attempt.json", "prepared.json"
PARTS = ("out", "checkpoints", "journal", "logs")


class _State(StateModel):
    model_config = ConfigDict(extra="allow")

    format: Count
    work: Annotated[str, Field(pattern=r"^work-[0-9]+-[0-9a-z]+$")]
    epoch: Count
    stage: str = ""
    is_rebuild: bool = False
    preimage: JsonObject = Field(default_factory=dict)
    code: dict[str, str] = Field(default_factory=dict)


class Attempt:
    """The attempt at one key; the caller holds the key's lock while it writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def state(self) -> JsonObject | None:
        """The content of `attempt.json`, or None before the first start.

        Where that file is damaged, the copy in the newest working directory that has a whole one.
        """
        try:
            return read_attempt(self.folder / STATE)
        except DamagedError as error:
            return self._state_of_work(error)

    def _state_of_work(self, error: DamagedError) -> JsonObject | None:
        """Return the newest whole copy of the state, or None if there is none to go on from."""
        found: list[JsonObject] = []
        for path in self.folder.glob(f"work-*/{STATE}"):
            with suppress(DamagedError, StoreError):
                if (state := read_attempt(path)) is not None and state["work"] == path.parent.name:
                    found.append(state)
        newest = max(found, key=lambda state: int(state["epoch"]), default=None)
        went_on = "its copy is used" if newest else "nothing can be gone on from"
        tell(f"{error}; {went_on}")
        return newest

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
        sizes = sorted(self.journal_sizes().items())
        found += [f"{size} bytes of {name}" for name, size in sizes if size]
        return ", ".join(found) or None

    def journal_sizes(self) -> dict[str, int]:
        """Return the bytes of every journal of the working directory.

        Another run may finish this attempt meanwhile: a journal that has gone is left out.
        """
        work, sizes = self.work, dict[str, int]()
        with suppress(FileNotFoundError):
            for path in (work / "journal").glob("*.jsonl") if work else ():
                with suppress(FileNotFoundError):
                    sizes[path.stem] = path.stat().st_size
        return sizes

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
        write_state(self.folder / name / STATE, state)
        write_state(self.folder / STATE, state)
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


def read_attempt(path: Path) -> JsonObject | None:
    """Return the state of an attempt from its file, or None if there is none."""
    value = read_object(path)
    if value is None:
        return None
    state = checked(_State, value, path)
    if state.format > ATTEMPT_FORMAT:
        raise StoreError(
            f"{path.parent}: attempt format {state.format}, this r1pipe reads "
            f"{ATTEMPT_FORMAT}: upgrade r1pipe"
        )
    return value


def attempts_in(folder: Path, stage: str) -> list[Attempt]:
    """Return the attempts at a stage in a store's folder, the one begun last at the end."""
    found = []
    for path in sorted(folder.glob("[!.]*/" + STATE)):
        attempt = Attempt(path.parent)
        with suppress(OSError):
            if (attempt.state or {}).get("stage") == stage:
                found.append((path.stat().st_mtime_ns, attempt))
    return [attempt for _, attempt in sorted(found, key=lambda pair: pair[0])]


def _adopt_journals(old: Path, new: Path) -> dict[str, list[int]]:
    """Copy whole frames; return, by journal, the running checksum after each of them."""
    return {
        path.stem: journal.copy_whole_frames(path, new / "journal" / path.name)
        for path in (old / "journal").glob("*.jsonl")
    }


def _adopt(old: Path, new: Path) -> None:
    """Copy whole journal frames, the newest whole checkpoint that agrees with them, and the logs.

    A checkpoint that was saved when a journal held more than is whole now would skip those rows.
    """
    frames = _adopt_journals(old, new)
    for step, path in checkpoints.steps(old / "checkpoints"):
        if (short := checkpoints.ahead_of(path, frames)) is not None:
            tell(
                f"{path}: journal '{short}' is damaged before where step {step} found it; "
                "goes on from before that"
            )
        elif checkpoints.copy_whole(path, new / "checkpoints" / path.name):
            break
    for path in (old / "logs").iterdir():
        if not path.name.startswith(".") and path.is_file():
            shutil.copyfile(path, new / "logs" / path.name)
    for part in PARTS:
        disk.fsync_path(new / part)
