"""The command line: thin commands over manifest, store and pipeline.

What was asked for goes to stdout (`--json`: one document), everything else to stderr. An expected
error ends with its message and exit code; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import atexit
import errno
import gc
import io
import os
import sys
import threading
from contextlib import suppress
from types import ModuleType
from typing import NoReturn

from r1pipe.errors import Interrupted, R1PipeError, StoreError

GC_THRESHOLD = 200_000
"""New objects between two searches for cycles: what is imported stays, and Python's 700 would have
a short command search it through forty times."""

STOP = Interrupted("stopped by Ctrl-C")
"""What ends a command that keeps nothing for later; one that does says how to go on."""
REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""What a file system says where nothing can be written, wherever that is noticed."""


def command() -> NoReturn:
    """Run the command line as a process of its own; the console script's entry.

    It ends without taking the interpreter apart: that would free memory which the system frees at
    once, and has some libraries complain on stderr about the order.
    """
    from r1pipe.cli.printing import complain, print_traceback

    sys.excepthook = print_traceback
    try:
        main()
        status: int | str | None = 0
    except SystemExit as end:
        status = end.code
    except KeyboardInterrupt:  # while it still reads its own modules
        complain(str(STOP))
        status = STOP.exit_code
    if isinstance(status, str):
        sys.exit(status)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a closed pipe: what was asked for went nowhere
            stream.flush()
    os._exit(status or 0)


def _without_plugins() -> None:
    """Let no plugin of pydantic decide what is valid, and spare the search for them.

    The search is never called then, but importing it reads a quarter of the modules that a short
    command reads. Where pydantic keeps it elsewhere, it is imported as ever.
    """
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    search = ModuleType("pydantic.plugin._loader")
    vars(search)["get_plugins"] = tuple
    sys.modules.setdefault(search.__name__, search)


def main() -> None:
    """Run the command line; raises SystemExit with its exit code."""
    gc.set_threshold(GC_THRESHOLD)  # before the imports, which make most of the objects
    _without_plugins()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    from r1pipe.cli.printing import complain
    from r1pipe.cli.table import UsageError, app

    try:
        code = app(standalone_mode=False)
    except R1PipeError as error:
        complain("\n".join([str(error), *getattr(error, "__notes__", [])]))
        sys.exit(error.exit_code)
    except UsageError as error:
        shown = io.StringIO()
        error.show(shown)
        complain(shown.getvalue().rstrip("\n"))
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        from r1pipe.store.disk import ADVICE, said

        complain(f"{said(error)}; {ADVICE}")
        sys.exit(StoreError.exit_code)
    except RuntimeError as error:
        if type(error).__name__ != "Abort":
            raise
        complain("not confirmed; nothing was done")
        sys.exit(1)
    if code == STOP.exit_code:
        complain(str(STOP))
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    command()
