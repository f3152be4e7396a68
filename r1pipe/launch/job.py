"""Messages between a run and the ranks of one of its stages: files in one folder.

    job.json        the stage: its file, parameters, inputs, where it works
    address         host and port of rank 0's store
    alive           touched every second; ranks end when it is not
    stop            says that a stop was asked for
    events.jsonl    rank 0's metrics, samples and notes
    rank-<n>.json   how a rank ended
    rank-<n>.log    what it printed

The folder is in the attempt, so several nodes need the store on a file system that they share.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from r1pipe.keys import InputIds, JsonObject
from r1pipe.store import disk

Status = Literal["done", "stopped", "failed", "bug"]
TAIL_LINES = 15


@dataclass(frozen=True)
class Job:
    """A stage that ranks run; plain JSON values."""

    name: str
    kind: str
    file: str
    params: str
    """JSON text of the kind's `Params`."""
    run: str
    """JSON text of the kind's `Run`."""
    inputs: dict[str, str | dict[str, str]]
    """Paths."""
    input_ids: InputIds
    outputs: list[str]
    work: str
    checkpoint_every_s: float
    size: int
    """Number of ranks."""
    plugins: dict[str, str]
    """Path -> digest."""
    uses: dict[str, dict[str, str]]
    """What the key says of plugins."""


@dataclass(frozen=True)
class Report:
    """How a rank ended."""

    rank: int
    status: Status
    error: str = ""
    """Name of the error's class."""
    message: str = ""
    """Its text; for a bug the whole traceback."""
    time: float = field(default_factory=time.time)


class JobFolder:
    """The folder of one job."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, job: Job) -> None:
        """Make the folder."""
        self.path.mkdir(parents=True)
        disk.place_json(self.path / "job.json", asdict(job), durable=False)
        self.touch()

    def job(self) -> Job:
        """Return the stage that is run."""
        return Job(**disk.read_json(self.path / "job.json"))

    def touch(self) -> None:
        """Mark the run as alive."""
        (self.path / "alive").touch()

    def last_touch(self) -> int:
        """Return a number that changes with every touch."""
        return (self.path / "alive").stat().st_mtime_ns

    def ask_stop(self) -> None:
        """Ask the ranks to stop as soon as nothing is lost."""
        (self.path / "stop").touch()

    @property
    def is_stop_asked(self) -> bool:
        """Return whether the ranks are asked to stop."""
        return (self.path / "stop").exists()

    def log_path(self, rank: int) -> Path:
        """Return the file that takes what a rank prints."""
        return self.path / f"rank-{rank}.log"

    def death(self, rank: int, size: int, code: int) -> str:
        """Describe the end of one of `size` ranks, which wrote no report."""
        how = f"ended with code {code}"
        if code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
            if code == -signal.SIGKILL:
                how += " (the kernel does that when memory runs out)"
        return f"rank {rank} of {size} {how}; {tail(self.log_path(rank))}"

    def report_death(self, rank: int, size: int, code: int) -> None:
        """Report the end of a rank, unless it has done so itself or the folder is gone."""
        if self.path.exists() and not self.report_path(rank).exists():
            text = self.death(rank, size, code)
            self.write_report(Report(rank, "failed", "StageError", text))

    def report_path(self, rank: int) -> Path:
        """Return the file that says how a rank ended."""
        return self.path / f"rank-{rank}.json"

    def write_report(self, report: Report) -> None:
        """Write how a rank ended."""
        disk.place_json(self.report_path(report.rank), asdict(report), durable=False)

    def reports(self) -> list[Report]:
        """Return how ranks ended, in the order of time."""
        found = [disk.read_json(path) for path in self.path.glob("rank-*.json")]
        return sorted((Report(**row) for row in found if row), key=lambda report: report.time)

    def add_event(self, what: str, values: Mapping[str, object]) -> None:
        """Append one event of rank 0."""
        line = json.dumps([what, values], default=lambda value: value.item())
        with (self.path / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def events(self, seen: int) -> tuple[int, list[tuple[str, JsonObject]]]:
        """Return the whole events after the first `seen` bytes, and the byte at which they end."""
        path = self.path / "events.jsonl"
        if not path.exists():
            return seen, []
        with path.open("rb") as file:
            file.seek(seen)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        return seen + len(whole), [tuple(json.loads(line)) for line in whole.splitlines()]


def tail(path: Path) -> str:
    """Return the last lines that were printed, and where all of them are."""
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    if not lines:
        return f"it printed nothing ({path})"
    return "\n".join([f"the end of {path}:", *lines[-TAIL_LINES:]])
