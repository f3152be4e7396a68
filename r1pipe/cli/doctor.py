"""The command `doctor`."""

from typing import Annotated

import typer

from r1pipe.cli.options import JsonOption, StoreOption, command_group, print_json, store_folder
from r1pipe.cli.printing import say_lines

app = command_group()


@app.command()
def doctor(
    online: Annotated[
        bool, typer.Option("--online", help="See whether the hub answers (3 s at most).")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Look only at versions; import nothing.")
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is installed, what this machine has, and what to do about each problem."""
    from r1pipe.doctor.diagnosis import diagnose

    found = diagnose(store_folder(store), is_online=online, is_quick=quick)
    if as_json:
        print_json(found.to_json())
    else:
        say_lines(found.lines())
    raise typer.Exit(found.exit_code)
