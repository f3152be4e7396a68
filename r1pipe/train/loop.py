"""The one training loop: pretraining, fine-tuning, reward models and GRPO say what each update is.

It has the engine, the learning rate, resume, checkpoints, the stop and the log. Data and orders are
functions of the step, so a resumed run continues the uninterrupted one exactly.
"""

from __future__ import annotations

import json
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Protocol

from torch import Tensor

from r1pipe.errors import CommonError, Interrupted, StageError
from r1pipe.machine import free_memory
from r1pipe.models.interfaces import LanguageModel
from r1pipe.settings import Optimizer
from r1pipe.stage import Context
from r1pipe.text import listed
from r1pipe.train.batching import MicroBatch
from r1pipe.train.engine import Engine, Loss, LossFunction
from r1pipe.train.gpu_memory import GpuMemory
from r1pipe.train.schedule import learning_rate
from r1pipe.train.state import held

PROGRESS = "progress.json"
"""In a checkpoint: the state that is no tensor."""
MAX_NAMED = 12
"""Rows that a message names."""
RISEN, LEAPT = 1.25, 10.0
"""Times its first value that a loss is warned of: in the end, and at any update."""


@dataclass(frozen=True)
class Update:
    """One optimizer step: its micro-batches, and what each adds to the loss."""

    batches: Iterable[MicroBatch]
    loss: LossFunction
    num_tokens: int
    """Tokens of its sequences, prompts included; 0 makes no step, and the next one has the next
    learning rate."""
    trained_tokens: int
    """Those of them that have a gradient."""
    seconds: float = 0.0
    """Spent on it before the step, such as its share of the sampling."""
    name_of: Callable[[int], str] | None = None
    """Names what a sequence of it belongs to, by the sequence's index; None: a row of the data."""


class Saved(Protocol):
    """State that goes into a checkpoint beside the engine."""

    def save(self, folder: Path) -> None:
        """Write into an existing folder."""

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""


class Trainer:
    """An engine and the steps that it has done, of those that a stage makes."""

    def __init__(
        self,
        context: Context,
        engine: Engine,
        optimizer: Optimizer,
        num_steps: int,
        others: Sequence[Saved] = (),
    ) -> None:
        """Go on from the newest checkpoint, if there is one."""
        self.engine = engine
        self.step = 0
        """Updates done."""
        self.trained_tokens = 0
        self.has_moved = False
        """Whether any update so far had a gradient."""
        self.has_signal = False
        """Whether the rewards of any update so far differed; who trains on rewards sets it."""
        self._context = context
        self._optimizer = optimizer
        self._num_steps = num_steps
        self._saved: list[Saved] = [engine, *others]
        self._memory = GpuMemory(next(iter(engine.parameters.values())).device)
        if (checkpoint := context.checkpoints.latest()) is not None:
            self._load(*checkpoint)

    def run(self, updates: Iterable[Update]) -> None:
        """Make the updates, each of them a place to save and to stop; warn if the loss rose."""
        losses = array("d")
        for update in updates:
            measures = self.update(update)
            losses += array("d", [measures["loss"]] if "loss" in measures else [])
            self.checkpoint()
        if said := risen_loss(losses):
            self._context.warn(
                f"{said}: a learning rate that is too high (params.optimizer.lr:"
                f" {self._optimizer.lr:g}) does so; see the curve with"
                f" `r1pipe show {self._context.name}`"
            )

    def update(
        self, update: Update, metrics: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """Make one step and log it with further metrics; return what was measured.

        Raises StageError, before any weight changes, if the loss or the gradient is not finite.
        """
        started = time.perf_counter()
        rate = learning_rate(self.step, self._num_steps, self._optimizer)
        measures: dict[str, float] = {}
        if update.num_tokens:
            parts = LossParts(update.loss)
            measures = self.engine.accumulate(update.batches, parts)
            if not isfinite(measures["loss"]):
                rows = parts.rows_not_finite()
                raise self._not_finite("loss", measures["loss"], rows, update.name_of)
            measures["grad_norm"] = self.engine.step(rate)
            if not isfinite(measures["grad_norm"]):
                raise self._not_finite("gradient norm", measures["grad_norm"], [])
            self.has_moved |= measures["grad_norm"] > 0.0
        self.step += 1
        self.trained_tokens += update.trained_tokens
        seconds = update.seconds + time.perf_counter() - started
        self._context.log(
            self.step,
            self._num_steps,
            **(measures | dict(metrics or {})),
            **self._memory.peak(),
            lr=rate,
            tokens_per_s=update.num_tokens / seconds,
        )
        if self.step == self._num_steps:
            self._note_memory()
        return measures

    def _note_memory(self) -> None:
        """Note the most memory that any rank's GPU held; all ranks call it together."""
        peaks = self._context.ranks.gather(self._memory.peak())
        for name in peaks[0]:
            self._context.note(**{name: max(each[name] for each in peaks)})

    def checkpoint(self) -> None:
        """Save when it is due, then stop if that was asked for, once it is saved."""
        self._context.checkpoints.check()
        if self._context.checkpoint_due():
            self.save()
        try:
            self._context.stop_if_asked()
        except Interrupted:
            self._context.checkpoints.wait()
            raise

    @contextmanager
    def saved_if_stopped(self) -> Iterator[None]:
        """Save first what the updates so far have done, if the block is interrupted, or if it fails
        for want of something outside, such as engines. All ranks must be told so."""
        try:
            yield
        except (Interrupted, StageError) as error:
            is_common = isinstance(error, Interrupted | CommonError)
            if self._context.ranks.size > 1 and not is_common:
                raise
            latest = self._context.checkpoints.latest()
            if self.step > (0 if latest is None else latest[0]):
                self.save_now()
            raise

    def save(self) -> None:
        """Copy the training as it is between two updates; a thread writes the copy.

        What does not fit into half of the free memory is written here, at once. What fails in the
        thread is raised at the next update's end.
        """
        self._context.checkpoints.save_beside(self.step, self._snapshot)

    def save_now(self) -> None:
        """Save, and wait until it is there."""
        self.save()
        self._context.checkpoints.wait()

    def _snapshot(self, folder: Path) -> Callable[[], None]:
        ranks = self._context.ranks
        with held(free_memory() // (2 * ranks.size)) as files:
            for each in self._saved:
                each.save(folder)
        if ranks.is_main:
            progress = {
                "trained_tokens": self.trained_tokens,
                "has_moved": self.has_moved,
                "has_signal": self.has_signal,
            }
            (folder / PROGRESS).write_text(json.dumps(progress))
        return files.write

    def _not_finite(
        self,
        what: str,
        value: float,
        rows: list[int],
        name_of: Callable[[int], str] | None = None,
    ) -> StageError:
        """Return the error that ends a training which has diverged; all ranks call it together."""
        ranks = self._context.ranks
        named = sorted({row for of_rank in ranks.gather(rows) for row in of_rank})
        latest = self._context.checkpoints.latest()
        kept = f"that of step {latest[0]}" if latest else "not there yet"
        where = ""
        if named and name_of is None:
            where = f" in a micro-batch of the rows {listed(named, MAX_NAMED)} (from 0)"
        elif named and name_of is not None:
            names = list(dict.fromkeys(map(name_of, named)))
            where = f" in a micro-batch of {listed(names, MAX_NAMED)}"
        return StageError(
            f"{self._context.name}: step {self.step + 1}: the {what} is {value}{where}. The step"
            f" was not made, and nothing of it is kept; the last checkpoint is {kept}. Usual"
            " causes: a learning rate that is too high (params.optimizer.lr:"
            f" {self._optimizer.lr:g}), arithmetic that is too coarse (params.precision: float32 is"
            " the finest), or a broken row. Changed params start over; otherwise the stage goes on"
            " from its last checkpoint"
        )

    def _load(self, step: int, folder: Path) -> None:
        for each in self._saved:
            each.load(folder)
        self.step = step
        progress = json.loads((folder / PROGRESS).read_text())
        self.trained_tokens = int(progress["trained_tokens"])
        self.has_moved = bool(progress.get("has_moved", True))  # older checkpoints do not say
        self.has_signal = bool(progress.get("has_signal", True))


def risen_loss(losses: Sequence[float]) -> str:
    """Say how far a loss has risen; "" if it has not, or has too few updates to tell.

    Quarters are compared, since the updates of one batch each go up and down.

    >>> risen_loss([2.0, 1.0, 3.0, 2.25])
    ''
    >>> risen_loss([2.0, 3.0, 3.0, 3.0])
    'the loss rose from 2 to 3 (means of the first and the last quarter)'
    >>> risen_loss([2.0, 30.0, 2.0, 2.0])
    'the loss, 2 at first, rose to 30 on the way'
    """
    count = len(losses) // 4
    if not count:
        return ""
    first, last, worst = fmean(losses[:count]), fmean(losses[-count:]), max(losses)
    if last > RISEN * first:
        means = "means of the first and the last quarter"
        return f"the loss rose from {first:.4g} to {last:.4g} ({means})"
    if worst > LEAPT * first:
        return f"the loss, {first:.4g} at first, rose to {worst:.4g} on the way"
    return ""


class LossParts:
    """A loss function that remembers what each micro-batch of an update added."""

    def __init__(self, loss: LossFunction) -> None:
        self._loss = loss
        self._parts: list[tuple[Tensor, Tensor]] = []

    def __call__(self, model: LanguageModel, batch: MicroBatch) -> Loss:
        """Return the loss; threads may call it at once."""
        part = self._loss(model, batch)
        self._parts.append((part.value.detach(), batch.sequence_index))
        return part

    def rows_not_finite(self) -> list[int]:
        """Return the sequences in micro-batches of this rank whose loss is not finite."""
        bad = [rows for value, rows in self._parts if not isfinite(float(value))]
        return sorted({row for rows in bad for row in rows.flatten().tolist() if row >= 0})
