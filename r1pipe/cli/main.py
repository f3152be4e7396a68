"""The command line: thin commands over manifest, store and pipeline.

What was asked for goes to stdout (`--json`: one document), everything else to stderr. An expected
error ends with its message and exit code; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import gc
import os
import sys

from r1pipe.errors import R1PipeError

GC_THRESHOLD = 50_000
"""New objects between two searches for cycles: what is imported stays, and Python's 700 would have
a short command search it through forty times."""


def main() -> None:
    """Run the command line; the console script's entry."""
    gc.set_threshold(GC_THRESHOLD)  # before the imports, which make most of the objects
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # no plugin decides what is valid
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    from r1pipe.cli.table import app

    try:
        app()
    except R1PipeError as error:
        print("\n".join([str(error), *getattr(error, "__notes__", [])]), file=sys.stderr)
        sys.exit(error.exit_code)
    finally:
        gc.freeze()  # a last search for cycles at the interpreter's end takes 30 ms


if __name__ == "__main__":
    main()
