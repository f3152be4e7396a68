"""The one training loop: pretraining, fine-tuning, reward models and GRPO say what each update is.

It has the engine, the learning rate, resume, checkpoints, the stop and the log. Data and orders are
functions of the step, so a resumed run continues the uninterrupted one exactly.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from r1pipe.settings import Optimizer
from r1pipe.stage import Context
from r1pipe.train.batching import MicroBatch
from r1pipe.train.engine import Engine, LossFunction
from r1pipe.train.schedule import learning_rate

PROGRESS = "progress.json"
"""In a checkpoint: the state that is no tensor."""


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
        self._context = context
        self._optimizer = optimizer
        self._num_steps = num_steps
        self._saved: list[Saved] = [engine, *others]
        if (checkpoint := context.checkpoints.latest()) is not None:
            self._load(*checkpoint)

    def run(self, updates: Iterable[Update]) -> None:
        """Make the updates, each of them a place to save and to stop."""
        for update in updates:
            self.update(update)
            self.checkpoint()

    def update(
        self, update: Update, metrics: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """Make one step and log it with further metrics; return what was measured."""
        started = time.perf_counter()
        opt, measures = self._optimizer, dict[str, float]()
        rate = learning_rate(
            self.step, self._num_steps, opt.lr, opt.schedule, opt.warmup_steps, opt.final_lr_frac
        )
        if update.num_tokens:
            measures = self.engine.accumulate(update.batches, update.loss)
            measures["grad_norm"] = self.engine.step(rate)
        self.step += 1
        self.trained_tokens += update.trained_tokens
        seconds = update.seconds + time.perf_counter() - started
        self._context.log(
            self.step,
            self._num_steps,
            **(measures | dict(metrics or {})),
            lr=rate,
            tokens_per_s=update.num_tokens / seconds,
        )
        return measures

    def checkpoint(self) -> None:
        """Save when it is due, then stop if that was asked for."""
        if self._context.checkpoint_due():
            with self._context.checkpoints.saving(self.step) as folder:
                for each in self._saved:
                    each.save(folder)
                if self._context.ranks.is_main:
                    progress = {"trained_tokens": self.trained_tokens}
                    (folder / PROGRESS).write_text(json.dumps(progress))
        self._context.stop_if_asked()

    def _load(self, step: int, folder: Path) -> None:
        for each in self._saved:
            each.load(folder)
        self.step = step
        self.trained_tokens = int(json.loads((folder / PROGRESS).read_text())["trained_tokens"])
