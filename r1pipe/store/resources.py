"""The peak memory of a stage, of its own process or of its largest child."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


class PeakMemory:
    """The greatest resident size since this object was made.

    The kernel keeps a high-water mark for the life of the process; where it lets us, the mark is
    set back, so that a small stage after a large one is not charged for it. A child counts when it
    is larger than every child before it.
    """

    def __init__(self) -> None:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._children_before = _children_bytes()

    def read_bytes(self) -> int:
        """Return the peak so far, of this process or of its largest finished child."""
        children = _children_bytes()
        return max(_own_bytes(), children if children > self._children_before else 0)


def _children_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * UNIT_BYTES


def _own_bytes() -> int:
    """Return VmHWM, which unlike `ru_maxrss` follows a mark that was set back everywhere."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT_BYTES
