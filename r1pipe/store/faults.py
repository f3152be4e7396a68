"""Numbered points at which tests kill the process or fail a write; off unless asked for.

`R1PIPE_FAULT=publish.rename` ends the process there with SIGKILL, `publish.rename:ENOSPC` raises
that error instead, and a suffix `@3` waits for the third time the point is passed.
"""

from __future__ import annotations

import errno
import os
import signal
from collections import Counter

POINTS = (
    "attempt.begin",
    "attempt.adopt",
    "attempt.switch",
    "attempt.clean",
    "checkpoint.write",
    "checkpoint.seal",
    "checkpoint.rename",
    "checkpoint.prune",
    "journal.append",
    "journal.torn",
    "publish.start",
    "publish.collect",
    "publish.digest",
    "publish.seal",
    "publish.prepare",
    "publish.rename",
    "publish.object",
    "publish.logs",
    "publish.record",
    "publish.stat",
    "publish.latest",
    "publish.clean",
)
"""In the order in which a run passes them."""

_passed: Counter[str] = Counter()


def point(name: str) -> None:
    """Fail here when `R1PIPE_FAULT` names this point."""
    wanted = os.environ.get("R1PIPE_FAULT")
    if wanted is None:
        return
    wanted, _, count = wanted.partition("@")
    wanted, _, error = wanted.partition(":")
    if wanted != name:
        return
    _passed[name] += 1
    if _passed[name] != int(count or 1):
        return
    if error:
        code = getattr(errno, error)
        raise OSError(code, os.strerror(code), name)
    os.kill(os.getpid(), signal.SIGKILL)


def is_next(name: str) -> bool:
    """Return whether the next `point(name)` fails, so that a test's damage can be prepared."""
    wanted = os.environ.get("R1PIPE_FAULT", "").partition("@")
    return wanted[0].partition(":")[0] == name and _passed[name] + 1 == int(wanted[2] or 1)
