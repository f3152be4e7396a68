"""The table of commands; a command's module is loaded when the command is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

MODULES = {
    "run": "run_commands",
    "stage": "run_commands",
    "ablate": "ablate_command",
    "try": "try_command",
    "init": "init_command",
    "plan": "read_commands",
    "show": "read_commands",
    "report": "report_command",
    "why": "read_commands",
    "schema": "read_commands",
    "lock": "lock_commands",
    "reproduce": "lock_commands",
    "diff": "store_commands",
    "fsck": "store_commands",
    "gc": "store_commands",
    "pin": "store_commands",
    "tag": "store_commands",
    "export": "store_commands",
    "import": "store_commands",
    "push": "sharing_commands",
    "export-gguf": "gguf_command",
    "store": "remote_commands",
    "serve": "serve_command",
    "chat": "chat_command",
    "verify": "verify_commands",
    "audit": "verify_commands",
    "doctor": "doctor",
}
"""Command -> the module here whose `app` has it, in the order of `--help`."""


UsageError: Any = typer.BadParameter.__mro__[2]
"""The base of typer's errors about a command line, whichever click it has."""


class CommandTable(Mapping[str, object]):
    """The commands by name; a module is loaded when a command of it is asked for."""

    def __getitem__(self, name: str) -> object:
        module = import_module(f"r1pipe.cli.{MODULES[name]}")
        return get_group(module.app).commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(MODULES)

    def __len__(self) -> int:
        return len(MODULES)


class _Group(TyperGroup):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings | {"commands": CommandTable()})

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands with the first sentence of each, whole in any width."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, first_sentence(found.help or "")) for name, found in commands if found]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def first_sentence(text: str) -> str:
    """Return the first paragraph of a help text up to the first full stop that ends a sentence."""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return paragraph.split(". ")[0].rstrip(".")


app = typer.Typer(
    cls=_Group,
    help="Reproduce the DeepSeek-R1 recipe from one declarative manifest.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    callback=lambda: None,
)
