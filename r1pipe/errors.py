"""Every error a user can cause, with the exit code the command line ends with.

A message says where, what is wrong with the value, and what to do. Anything else that is raised is
a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class R1PipeError(Exception):
    """The base of all expected errors; `exit_code` is what the process returns."""

    exit_code = 1


class StageError(R1PipeError):
    """A stage cannot do its work with the inputs and parameters that it was given."""


class CommonError(StageError):
    """A StageError that all ranks of a stage raise together: they can still agree."""


class Paused(R1PipeError):  # noqa: N818 - nothing failed
    """A stage stopped itself by a condition of its `run`; its attempt can be resumed."""

    exit_code = 4


class ManifestError(R1PipeError):
    """A manifest, profile or override is wrong; `mistakes` holds all that was found."""

    exit_code = 2

    def __init__(self, *mistakes: Mistake | str) -> None:
        self.mistakes = [Mistake(each) if isinstance(each, str) else each for each in mistakes]
        super().__init__("\n".join(str(mistake) for mistake in self.mistakes))


class ArtifactError(R1PipeError):
    """An artifact is missing, unknown or ambiguous."""

    exit_code = 3


class DamagedError(R1PipeError):
    """An artifact's bytes are not those that were sealed."""

    exit_code = 6


class SourceError(R1PipeError):
    """A file or model from outside the store is missing or changed."""

    exit_code = 7


class StoreError(R1PipeError):
    """The store cannot be read or written (permissions, disk full, newer format)."""

    exit_code = 8


class Interrupted(R1PipeError):  # noqa: N818 - nobody did anything wrong
    """A run was asked to stop (SIGTERM 75, Ctrl-C 130); its attempt can be resumed."""

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Mistake(NamedTuple):
    """One mistake in a manifest: `file:line:column: message`; without a file, the message."""

    message: str
    file: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return (
            f"{self.file}:{self.line}:{self.column}: {self.message}" if self.file else self.message
        )


def sorted_mistakes(mistakes: Iterable[Mistake]) -> list[Mistake]:
    """Return mistakes without repetitions: those with a place in its order, then the others."""
    found = dict.fromkeys(mistakes)
    placed = [mistake for mistake in found if mistake.file]
    placed.sort(key=lambda mistake: (mistake.file, mistake.line, mistake.column, mistake.message))
    return [*placed, *(mistake for mistake in found if not mistake.file)]
