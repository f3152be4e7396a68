"""A command in a terminal of its own, and somebody who types."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Sequence

from command import ROOT

TIMEOUT_S = 60


def typed(
    command: Sequence[str], *turns: tuple[bytes, bytes], **environment: str
) -> tuple[int, bytes]:
    """Run a command; each time it has shown a text, type what belongs to it.

    Returns its exit code and all that it showed.
    """
    main, other = pty.openpty()
    kept = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**kept, "TERM": "xterm", "PYTHONPATH": str(ROOT), **environment},
        stdin=other,
        stdout=other,
        stderr=other,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(other)
    seen, place, until = b"", 0, time.monotonic() + TIMEOUT_S
    try:
        for awaited, answer in turns:
            while (found := seen.find(awaited, place)) < 0:
                assert time.monotonic() < until, seen
                if select.select([main], [], [], 0.05)[0]:
                    seen += os.read(main, 1 << 12)
            place = found + len(awaited)
            os.write(main, answer)
        return process.wait(timeout=10), seen
    finally:
        process.kill()
        process.wait()
        os.close(main)
