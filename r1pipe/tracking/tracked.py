"""The trackers of one stage: opened, told the steps of its metrics log, closed."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from importlib import import_module
from types import TracebackType
from typing import TextIO, cast

from r1pipe.errors import StageError
from r1pipe.tracking.table import Tracker, TrackerName, TrackerRun, missing_packages

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class _Uncoloured(io.TextIOBase):
    """Passes text on without the colours that a package prints wherever it goes."""

    def __init__(self, to: TextIO) -> None:
        self._to = to

    def write(self, text: str) -> int:
        self._to.write(COLOURS.sub("", text))
        return len(text)

    def flush(self) -> None:
        self._to.flush()


def _told() -> TextIO:
    """Return where packages may print: stderr, since stdout has what the command was asked for."""
    has_colours = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    return sys.stderr if has_colours else cast(TextIO, _Uncoloured(sys.stderr))


class Tracked:
    """The trackers of a stage, open inside a `with` block.

    A tracker that fails is told of and left, since training of many hours is worth more than its
    curves elsewhere; the metrics log has them all.
    """

    def __init__(
        self,
        names: Sequence[TrackerName],
        asked: TrackerRun,
        last_step: int,
        tell: Callable[[str], None],
    ) -> None:
        """Take note of what to open; steps up to `last_step` an earlier attempt has passed on."""
        self._names = tuple(dict.fromkeys(names))
        self._asked = asked
        self._last_step = last_step
        self._tell = tell
        self._open: dict[TrackerName, Tracker] = {}

    def __enter__(self) -> Tracked:
        """Open the trackers; raises StageError if a package is not installed."""
        if (message := missing_packages(self._names)) is not None:
            raise StageError(message)
        for name in self._names:
            self._guard(name, partial(self._open_one, name))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name, tracker in list(self._open.items()):
            self._guard(name, partial(tracker.close, error is None))
        self._open.clear()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Pass the values of a step on, unless an earlier attempt has done so."""
        if step > self._last_step:
            plain = {name: float(value) for name, value in values.items()}  # also of a tensor
            for name, tracker in list(self._open.items()):
                self._guard(name, partial(tracker.log, step, plain))

    def _open_one(self, name: TrackerName) -> None:
        asked = replace(self._asked, folder=self._asked.folder / name)
        asked.folder.mkdir(parents=True, exist_ok=True)
        adapter = import_module(f"r1pipe.tracking.{name}_run")
        self._open[name] = adapter.open_run(asked)
        self._tell(f"tracked by {name} as {asked.project}/{asked.run_id}")

    def _guard(self, name: TrackerName, call: Callable[[], None]) -> None:
        try:
            with redirect_stdout(_told()):
                call()
        except Exception as error:  # noqa: BLE001 - a package of others, perhaps with a network
            self._open.pop(name, None)
            what = f"warning: the tracker {name} failed and is left: {type(error).__name__}"
            self._tell(f"{what}: {error}; the stage's own log has every step")
