"""Failed units: what could not be sampled now, and may be later."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from contextlib import contextmanager

from r1pipe.errors import StageError

MAX_IN_A_ROW = 3
ONE = frozenset({0})


class SamplingFailed(StageError):  # noqa: N818 - it ends a unit, not always the stage
    """A unit's completions cannot all be had at present (a server is busy or gone)."""

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index
        """Of the request that failed; None if it is not known."""


class FailedUnits:
    """Units that failed while others were sampled; a resumed stage samples them again.

    Too many failures in a row end the stage at once: then nobody is there.
    """

    def __init__(self, max_in_a_row: int = MAX_IN_A_ROW) -> None:
        self.max_in_a_row = max_in_a_row
        self.num_units = 0
        self._last: SamplingFailed | None = None
        self._in_a_row = 0

    @contextmanager
    def tolerated(self, left: Sized = ONE) -> Iterator[None]:
        """Note the failure of what is sampled in this block.

        `left` are its units that have not been sampled yet; the block takes out those that have.
        """
        try:
            yield
        except SamplingFailed as failure:
            self.add(failure, len(left))
        else:
            self.succeeded()

    def add(self, failure: SamplingFailed, num_units: int) -> None:
        """Note a failure and how many units it ended."""
        self.num_units += num_units
        self._last = failure
        self._in_a_row += 1
        if self._in_a_row == self.max_in_a_row:
            self.check()

    def succeeded(self) -> None:
        """Note that a unit was sampled: whoever failed is there again."""
        self._in_a_row = 0

    def check(self) -> None:
        """Raise StageError if any unit failed."""
        if self._last is not None:
            units = "1 unit" if self.num_units == 1 else f"{self.num_units} units"
            raise StageError(
                f"{units} could not be sampled; the others are kept, and `--resume` samples the"
                f" rest. The last failure: {self._last}"
            ) from self._last
