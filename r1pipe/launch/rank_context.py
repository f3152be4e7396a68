"""The `Context` of one rank: rank 0 writes and decides; the others make the same calls."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from r1pipe.errors import Interrupted, StageError
from r1pipe.keys import InputIds
from r1pipe.launch.cadence import Cadence
from r1pipe.launch.job import Job, JobFolder
from r1pipe.ranks import Ranks
from r1pipe.store import disk
from r1pipe.store.beside import SavesBeside
from r1pipe.store.checkpoints import SealedCheckpoints

if TYPE_CHECKING:
    from r1pipe.stage import Checkpoints, Context

PART = ".part-"
"""In a checkpoint that is being written: that a rank's part is there, or why it is not."""
LOOK_EVERY_S = 0.005


class RankContext:
    """The context of a stage that runs in several processes."""

    def __init__(self, folder: JobFolder, job: Job, ranks: Ranks) -> None:
        self.name = job.name
        self.input_ids: InputIds = job.input_ids
        self.ranks = ranks
        work = Path(job.work)
        self._cadence = Cadence(job.checkpoint_every_s)
        sealed = SealedCheckpoints(
            work / "checkpoints", self._cadence.saved, on_begun=self._cadence.begun
        )
        self.checkpoints: Checkpoints = RankCheckpoints(sealed, ranks)
        self._folder = folder
        self._job = job
        self._work = work

    def output(self, name: str) -> Path:
        """Return the directory of one output; only rank 0 writes into it."""
        if name not in self._job.outputs:
            raise StageError(f"{self.name}: no output '{name}' is declared")
        path = self._work / "out" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def journal(self, name: str) -> NoReturn:
        """Raise StageError: journals are for stages of one process."""
        raise StageError(f"{self.name}: journal '{name}' in a stage of several processes")

    def previous(self, name: str) -> Path | None:
        """Return None: training only goes on from its checkpoints."""
        return None

    def log(self, step: int, total: int | None = None, **values: float) -> None:
        """Record metrics of one step and show progress."""
        self._tell("log", {"step": step, "total": total, **values})

    def sample(self, **row: object) -> None:
        """Keep one example row."""
        self._tell("sample", row)

    def note(self, **facts: object) -> None:
        """Keep facts about the finished stage."""
        self._tell("note", facts)

    def warn(self, text: str) -> None:
        """Say at once that something looks wrong."""
        self._tell("warn", {"text": text})

    def doing(self, what: str, done: int, total: int) -> None:
        """Show how far rank 0's work inside a step has come."""
        self._tell("doing", {"what": what, "done": done, "total": total})

    def _tell(self, what: str, values: Mapping[str, object]) -> None:
        if self.ranks.is_main:
            self._folder.add_event(what, values)

    def checkpoint_due(self) -> bool:
        """True on all ranks when it is time for a checkpoint, or a stop was asked for."""
        return self.ranks.agree(self._cadence.is_due or self._folder.is_stop_asked)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Give a block that is not entered once a stop was asked for: it raises `Interrupted`.

        Ranks see that at different times, so whoever catches it agrees with the others.
        """
        if self._folder.is_stop_asked:
            raise Interrupted("stopped")
        yield

    def stop_if_asked(self) -> None:
        """Raise `Interrupted` on all ranks when a stop was asked for."""
        if self.ranks.agree(self._folder.is_stop_asked):
            raise Interrupted("stopped")


class RankCheckpoints(SavesBeside):
    """Checkpoints that all ranks write into and rank 0 seals.

    A thread may write and seal them, so ranks do not speak with one another there: each one leaves
    a file when its part is written, and rank 0 looks for them.
    """

    def __init__(self, sealed: SealedCheckpoints, ranks: Ranks) -> None:
        self._sealed = sealed
        self._ranks = ranks

    def latest(self) -> tuple[int, Path] | None:
        """Return the newest checkpoint that rank 0 found whole, or None."""
        self.wait()
        found = self._sealed.latest() if self._ranks.is_main else None
        agreed = self._ranks.agree(None if found is None else (found[0], str(found[1])))
        return None if agreed is None else (agreed[0], Path(agreed[1]))

    @contextmanager
    def saving(self, step: int) -> Iterator[Path]:
        """Give all ranks one directory to write into; sealed when every rank's block ends well."""
        if self._ranks.is_main:
            with self._sealed.saving(step) as folder:
                self._ranks.agree(str(folder))
                yield folder
                self._await_others(folder)
            return
        folder, failure = Path(self._ranks.agree("")), "it ended"
        try:
            yield folder
            failure = ""
        except BaseException as error:
            failure = f"{type(error).__name__}: {error}"
            raise
        finally:
            disk.place_text(folder / f"{PART}{self._ranks.rank}", failure, durable=False)

    def _await_others(self, folder: Path) -> None:
        """Wait for the other ranks' parts; raise StageError if one could not be written."""
        for rank in range(1, self._ranks.size):
            path = folder / f"{PART}{rank}"
            while not path.exists():
                time.sleep(LOOK_EVERY_S)
            if failure := path.read_text():
                raise StageError(f"rank {rank} could not write its part of a checkpoint: {failure}")
            path.unlink()


if TYPE_CHECKING:

    def _is_context(context: RankContext) -> Context:
        return context
