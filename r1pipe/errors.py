"""Every error a user can cause, with the exit code the command line ends with.

A message says where, what is wrong with the value, and what to do. Anything else that is raised is
a bug and keeps its traceback.
"""

from __future__ import annotations

from dataclasses import dataclass


class R1PipeError(Exception):
    """The base of all expected errors; `exit_code` is what the process returns."""

    exit_code = 1


class StageError(R1PipeError):
    """A stage cannot do its work with the inputs and parameters that it was given."""


class ManifestError(R1PipeError):
    """A manifest, profile or override is wrong; `problems` holds all of them, sorted by place."""

    exit_code = 2

    def __init__(self, *problems: Problem | str) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


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


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake in a manifest: `file:line:column: message`."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"
