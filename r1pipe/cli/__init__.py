"""The command line: thin commands over manifest, store and pipeline.

What was asked for goes to stdout (`--json`: one document), everything else to stderr. An expected
error ends with its message and exit code; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

from r1pipe.errors import R1PipeError

MODULES = {
    "run": "run_commands",
    "stage": "run_commands",
    "plan": "read_commands",
    "show": "read_commands",
    "why": "read_commands",
    "schema": "read_commands",
    "diff": "store_commands",
    "fsck": "store_commands",
    "gc": "store_commands",
    "pin": "store_commands",
    "tag": "store_commands",
    "export": "store_commands",
    "import": "store_commands",
    "verify": "verify_commands",
    "audit": "verify_commands",
    "doctor": "doctor",
}
"""Command -> the module here whose `app` has it, in the order of `--help`."""
GC_THRESHOLD = 50_000
"""New objects between two searches for cycles: what is imported stays, and Python's 700 would have
a short command search it through forty times."""


class CommandTable(Mapping[str, Any]):
    """The commands by name; a module is loaded when a command of it is asked for."""

    def __getitem__(self, name: str) -> Any:
        module = import_module(f"{__name__}.{MODULES[name]}")
        return get_group(module.app).commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(MODULES)

    def __len__(self) -> int:
        return len(MODULES)


class _Group(TyperGroup):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings | {"commands": CommandTable()})


app = typer.Typer(
    cls=_Group,
    help="Reproduce the DeepSeek-R1 recipe from one declarative manifest.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    callback=lambda: None,
)


def main() -> None:
    """Run the command line; the console script's entry."""
    gc.set_threshold(GC_THRESHOLD)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # no plugin decides what is valid
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except R1PipeError as error:
        print("\n".join([str(error), *getattr(error, "__notes__", [])]), file=sys.stderr)
        sys.exit(error.exit_code)
    finally:
        gc.freeze()  # a last search for cycles at the interpreter's end takes 30 ms


if __name__ == "__main__":
    main()
