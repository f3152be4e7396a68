"""Failed units: what could not be sampled now, and may be later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from r1pipe.errors import StageError

MAX_IN_A_ROW = 3


class SamplingFailed(StageError):  # noqa: N818 - it ends a unit, not always the stage
    """A unit's completions cannot all be had at present (a server is busy or gone)."""


class FailedUnits:
    """Units that failed while others were sampled; a resumed stage samples them again.

    Too many in a row end the stage at once: then nobody is there.
    """

    def __init__(self, max_in_a_row: int = MAX_IN_A_ROW) -> None:
        self.max_in_a_row = max_in_a_row
        self.failures: list[SamplingFailed] = []
        self._in_a_row = 0

    @contextmanager
    def tolerated(self) -> Iterator[None]:
        """Note the failure of the unit that is sampled in this block."""
        try:
            yield
        except SamplingFailed as failure:
            self.failures.append(failure)
            self._in_a_row += 1
            if self._in_a_row == self.max_in_a_row:
                self.check()
        else:
            self._in_a_row = 0

    def check(self) -> None:
        """Raise StageError if any unit failed."""
        if self.failures:
            raise StageError(
                f"{len(self.failures)} units could not be sampled; the others are kept, and"
                f" `--resume` samples the rest. The last failure: {self.failures[-1]}"
            ) from self.failures[-1]
