"""Failed units: what could not be sampled now, and may be later."""

from __future__ import annotations

from r1pipe.errors import StageError

MAX_IN_A_ROW = 3


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

    def add(self, failure: SamplingFailed) -> None:
        """Note the failure that ended a unit; raise StageError if it is one too many in a row."""
        self.num_units += 1
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
