"""The command `doctor`."""

from typing import Annotated

import typer

from r1pipe.cli.options import (
    DEFAULT_MANIFEST,
    STORE_NAME,
    JsonOption,
    StoreOption,
    command_group,
    print_json,
)

app = command_group()


@app.command()
def doctor(
    online: Annotated[
        bool, typer.Option("--online", help="See whether the hub answers (3 s at most).")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Look at versions alone; import nothing.")
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is installed, what this machine has, and what to do about each problem."""
    from r1pipe.doctor import diagnose
    from r1pipe.manifest.recipe import project_root

    folder = store or project_root(DEFAULT_MANIFEST) / STORE_NAME
    found = diagnose(folder, is_online=online, is_quick=quick)
    if as_json:
        print_json(found.to_json())
    else:
        print("\n".join(found.lines()))
    raise typer.Exit(found.exit_code)
