"""Stop a run when SIGTERM or Ctrl-C comes: once the stage can lose nothing, or at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from r1pipe.errors import Interrupted

EXIT_CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}


class Stopper:
    """Remembers that a stop was asked for, or raises where a stage loses nothing (`at_once`). The
    second signal raises in any case, the third ends the process."""

    def __init__(self, tell: Callable[[str], None] = lambda text: None) -> None:
        self.signal: signal.Signals | None = None
        self._pid = os.getpid()
        self._count = 0
        self._is_open = False
        self._tell = tell

    @property
    def is_asked(self) -> bool:
        """Return whether a stop was asked for."""
        return self.signal is not None

    def raise_if_asked(self) -> None:
        """Raise `Interrupted` when a stop was asked for."""
        if self.signal is not None:
            raise self.interrupted()

    def interrupted(self) -> Interrupted:
        """Return the error that ends the run, with the signal's exit code."""
        found = self.signal or signal.SIGINT
        return Interrupted(f"stopped by {found.name}", EXIT_CODES[found])

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let the first signal end the block at once: nothing that it does is kept."""
        self.raise_if_asked()
        self._is_open = True
        try:
            yield
        finally:
            self._is_open = False

    def ask(self, number: int, _: FrameType | None = None) -> None:
        """Handle a signal; a forked child, which has this handler too, does not outlive it."""
        if os.getpid() != self._pid:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._count += 1
        self.signal = self.signal or signal.Signals(number)
        if self._count == 1:
            if self._is_open:
                self._is_open = False
                raise self.interrupted()
            with suppress(RuntimeError):  # the signal came in the middle of another message
                self._tell("stopping as soon as nothing is lost; once more stops at once")
        elif self._count == 2:
            raise KeyboardInterrupt
        else:  # the stage caught the interrupt; what is in the store survives any end
            os._exit(EXIT_CODES[self.signal])

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals inside the block; only a main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.ask) for number in EXIT_CODES}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
