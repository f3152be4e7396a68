"""Commands that hold a run to what it was: lock, reproduce."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from r1pipe.cli.options import (
    DEFAULT_MANIFEST,
    JsonOption,
    ManifestArgument,
    ProfileOption,
    SetOption,
    StoreOption,
    command_group,
    load,
    print_json,
)
from r1pipe.cli.printing import complain, say, say_lines

app = command_group()


@app.command()
def lock(
    manifest: ManifestArgument = DEFAULT_MANIFEST,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            dir_okay=False,
            help="The lock; else beside the manifest.",
            show_default=False,
        ),
    ] = None,
    profile: ProfileOption = None,
    overrides: SetOption = None,
    store: StoreOption = None,
) -> None:
    """Write a lock: every stage's key and artifact, so that others can reproduce them."""
    from r1pipe.pipeline.lock import lock_path, make_lock, num_replaced, write_lock

    project = load(manifest, profile, overrides, store)
    loaded = project.manifest
    path = output or lock_path(loaded.path, loaded.profile)
    made = make_lock(loaded, project.opened, path)
    if count := num_replaced(made, path):
        complain(f"{path} was a lock of {count} other results; it is replaced")
    write_lock(made, path)
    say(f"{path}: {len(made.stages)} stages; 'r1pipe reproduce {path}' runs and compares them")


@app.command()
def reproduce(
    lock: Annotated[Path, typer.Argument(help="The lock.", show_default=False)],
    store: Annotated[
        Path | None,
        typer.Option(
            "--store", help="The store; else reproduced/ in the project.", show_default=False
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run what a lock was made of in a store of its own, and compare: the certificate."""
    from r1pipe.cli.console import make_console
    from r1pipe.manifest.recipe import find_manifest, project_root
    from r1pipe.pipeline.lock import check_recipe, fitting_lock, read_lock
    from r1pipe.pipeline.reproduction import certify
    from r1pipe.pipeline.resolution import Resolver

    path = find_manifest(lock)
    locked = read_lock(path)
    root = store or project_root(lock) / "reproduced"
    project = load(path.parent / locked.manifest, locked.profile, locked.overrides, root)
    loaded, opened = project.manifest, project.opened
    check_recipe(locked, loaded, Resolver(loaded, opened))
    if (fitting := fitting_lock(path, locked)) is not None:
        complain(
            f"{path} does not name this kind of processor, and another may round training"
            f" otherwise; {fitting} names it: r1pipe reproduce {fitting}"
        )
    with redirect_stdout(sys.stderr):  # libraries print, and stdout is for what was asked for
        result = project.run(console=make_console())
    found = certify(locked, path, result, opened)
    if as_json:
        print_json(found.to_json())
    else:
        say_lines(found.lines())
    if not found.holds:
        raise typer.Exit(1)
