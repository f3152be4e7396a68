"""Failed stages of a run that goes on with those that do not need them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from r1pipe.errors import Paused, R1PipeError, SourceError, StageError

GOES_ON = (StageError, SourceError, Paused)
"""Errors of a stage alone; a full disk, damage in the store or a lock that differs end the run."""


class Failures:
    """The stages of one run that failed, and those that were left out for it."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._errors: dict[str, R1PipeError] = {}
        self._left_out: list[str] = []

    def rule_out(self, name: str, needed: Iterable[str]) -> bool:
        """Return whether a stage cannot run, since one that it needs has not; say so."""
        missing = [each for each in needed if each in self._errors or each in self._left_out]
        if missing:
            self._left_out.append(name)
            self._tell(f"{name}: not run: it needs {missing[0]}")
        return bool(missing)

    @contextmanager
    def keeping(self, name: str) -> Iterator[None]:
        """Tell an error of a stage, and keep it for the end."""
        try:
            yield
        except GOES_ON as error:
            self._errors[name] = error
            self._tell("\n".join([f"{name}: {error}", *getattr(error, "__notes__", ())]))

    def check(self) -> None:
        """Raise StageError, with the first one's exit code, if any stage has failed."""
        if not self._errors:
            return
        text = f"failed: {', '.join(self._errors)} (told above)"
        if self._left_out:
            text += f"; not run, since they need them: {', '.join(self._left_out)}"
        summary = StageError(f"{text}; the results of all others are in the store")
        summary.exit_code = next(iter(self._errors.values())).exit_code
        raise summary
