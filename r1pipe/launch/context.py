"""The context of a running stage: outputs, journals, checkpoints, logs, and requests to stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from r1pipe.errors import StageError
from r1pipe.keys import InputIds
from r1pipe.launch.cadence import Cadence
from r1pipe.launch.stopping import Stopper
from r1pipe.ranks import ALONE
from r1pipe.stage import CHECKPOINT_EVERY_S
from r1pipe.store.checkpoints import SealedCheckpoints
from r1pipe.store.journal import FileJournal
from r1pipe.store.metrics import StageLog
from r1pipe.store.sealing import JournalMark
from r1pipe.text import visible

if TYPE_CHECKING:
    from r1pipe.stage import Checkpoints, Context


Progress = Callable[[str, int, int | None, Mapping[str, float]], None]
"""Shows a stage's step, how many there are, and the step's values."""
Doing = Callable[[str, str, int, int], None]
"""Shows a stage's work inside a step: what it does, how much is done, and of how much."""
MAX_WARNINGS = 20
"""Warnings that are kept; the latest ones count."""


class RunContext:
    """The `Context` of one stage in one working directory."""

    def __init__(  # noqa: PLR0913 - what a stage is given
        self,
        name: str,
        work: Path,
        outputs: Sequence[str],
        input_ids: InputIds,
        progress: Progress,
        stopper: Stopper,
        checkpoint_every_s: float = CHECKPOINT_EVERY_S,
        previous: Path | None = None,
        tell: Callable[[str], None] = lambda text: None,
        doing: Doing = lambda stage, what, done, total: None,
    ) -> None:
        self.name = name
        self.input_ids = input_ids
        self.ranks = ALONE
        cadence = Cadence(checkpoint_every_s)
        self.checkpoints: Checkpoints = SealedCheckpoints(
            work / "checkpoints", cadence.saved, self._mark_journals, cadence.begun
        )
        self.stage_log = StageLog(work / "logs")
        self._work = work
        self._previous = previous
        self._outputs = outputs
        self._progress = progress
        self._tell = tell
        self._doing = doing
        self._stopper = stopper
        self._cadence = cadence
        self._journals: dict[str, FileJournal] = {}

    @property
    def work(self) -> Path:
        """The private directory of this start of the attempt."""
        return self._work

    @property
    def stopper(self) -> Stopper:
        """The handler that knows whether a stop was asked for."""
        return self._stopper

    @property
    def checkpoint_every_s(self) -> float:
        """Least seconds between training checkpoints."""
        return self._cadence.every_s

    def output(self, name: str) -> Path:
        """Return the (created) directory of one output inside the private attempt."""
        if name not in self._outputs:
            raise StageError(
                f"{self.name}: no output '{name}' is declared; OUTPUTS has "
                f"{', '.join(self._outputs)}"
            )
        path = self._work / "out" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def previous(self, name: str) -> Path | None:
        """Return that output of the largest result that this one can go on from, or None."""
        return None if self._previous is None else self._previous / name

    def journal(self, name: str) -> FileJournal:
        """Open the named journal of this attempt."""
        if name not in self._journals:
            self._journals[name] = FileJournal(self._work / "journal" / f"{name}.jsonl")
        return self._journals[name]

    def log(self, step: int, total: int | None = None, **values: float) -> None:
        """Record metrics of one step and show progress."""
        self.stage_log.metric(step, values)
        self._progress(self.name, step, total, values)

    def sample(self, **row: object) -> None:
        """Keep one example row."""
        self.stage_log.sample(row)

    def note(self, **facts: object) -> None:
        """Keep facts about the finished stage."""
        self.stage_log.note(facts)

    def warn(self, text: str) -> None:
        """Say at once that something looks wrong, and keep it among the facts."""
        text = visible(text, keep_lines=True)
        kept = [each for each in self.stage_log.facts.get("warnings", []) if each != text]
        self.stage_log.note({"warnings": [*kept, text][-MAX_WARNINGS:]})
        self._tell(f"{self.name}: warning: {text}")

    def doing(self, what: str, done: int, total: int) -> None:
        """Show how far the work inside a step has come."""
        self._doing(self.name, what, done, total)

    def checkpoint_due(self) -> bool:
        """True when it is time for a training checkpoint, or a stop was asked for."""
        return self._cadence.is_due or self._stopper.is_asked

    def interruptible(self) -> AbstractContextManager[None]:
        """Give a block that raises `Interrupted` as soon as SIGTERM or Ctrl-C comes."""
        return self._stopper.at_once()

    def stop_if_asked(self) -> None:
        """Raise `Interrupted` when SIGTERM or Ctrl-C came."""
        self._stopper.raise_if_asked()

    def close(self) -> None:
        """Wait for a checkpoint that is being written, make the journals durable, close all files.

        Raises what failed in that checkpoint.
        """
        try:
            self.checkpoints.wait()
        finally:
            for journal in self._journals.values():
                journal.close()
            self._journals.clear()
            self.stage_log.write_spent()
            self.stage_log.close()

    def _mark_journals(self) -> dict[str, JournalMark]:
        """Return where the journals stand, so that a checkpoint is not used without their rows."""
        for path in (self._work / "journal").glob("*.jsonl"):
            self.journal(path.stem)
        marks = {name: journal.mark() for name, journal in self._journals.items()}
        return {name: JournalMark(units=units, crc=crc) for name, (units, crc) in marks.items()}


if TYPE_CHECKING:

    def _is_context(context: RunContext) -> Context:
        return context
