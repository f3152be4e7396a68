"""Checkpoints written beside the training: copied at a step's end, written by a thread."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from threading import Thread


class SavesBeside(ABC):
    """Checkpoints of which one at a time is written by a thread.

    What fails there is raised by the next call here, once: nothing is lost in silence.
    """

    _thread: Thread | None = None
    _failure: BaseException | None = None

    @abstractmethod
    def saving(self, step: int) -> AbstractContextManager[Path]:
        """Give a directory to write into; sealed by one rename when the block ends well."""

    def save_beside(self, step: int, snapshot: Callable[[Path], Callable[[], None]]) -> None:
        """Save what `snapshot` copies now; what it returns writes the copy, in a thread.

        Waits for the checkpoint before. `snapshot` may write small files into the folder itself.
        """
        self.wait()
        with ExitStack() as stack:
            write = snapshot(stack.enter_context(self.saving(step)))
            rest = stack.pop_all()
        self._thread = Thread(
            target=self._write, args=(rest, write), name="checkpoint", daemon=True
        )
        self._thread.start()

    def check(self) -> None:
        """Raise what failed in the thread, if it has ended."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Wait until what was begun is a checkpoint; raise what failed."""
        if self._thread is not None:
            self._thread.join()
        self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _write(self, rest: ExitStack, write: Callable[[], None]) -> None:
        try:
            with rest:
                write()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the training raises it
            self._failure = error
