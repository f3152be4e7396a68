"""When a training checkpoint is due: by the clock, and by what the last one cost."""

from __future__ import annotations

import time

SAVING_SHARE = 0.05
"""Largest share of the time that goes into checkpoints: one of a 7B model takes half a minute."""


class Cadence:
    """The time between two checkpoints: `every_s` seconds, or longer if saving takes long.

    With `every_s` 0 every step is saved, whatever it costs. What a thread writes counts whole: it
    has its share of the cores and of the disk.
    """

    def __init__(self, every_s: float) -> None:
        self.every_s = every_s
        self._saved_at = time.monotonic()
        self._cost_s = 0.0
        self._is_saving = False

    @property
    def is_due(self) -> bool:
        """Return whether it is time for the next checkpoint."""
        if not self.every_s:
            return True
        if self._is_saving:
            return False
        pause = self._cost_s * (1 / SAVING_SHARE - 1)
        return time.monotonic() - self._saved_at >= max(self.every_s, pause)

    def begun(self) -> None:
        """Take in that a checkpoint is being written: until it is there, none is due."""
        self._is_saving = True

    def saved(self, seconds: float) -> None:
        """Take in how long a checkpoint took, which has just been written."""
        self._is_saving = False
        self._saved_at = time.monotonic()
        self._cost_s = seconds
