"""The command that begins a project: a manifest for one's own model and data."""

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from r1pipe.cli.options import command_group
from r1pipe.cli.printing import say
from r1pipe.errors import ArtifactError

app = command_group()

OWN = Path("manifests/own.yaml")
FOLDERS = ("manifests", "data", "stages")


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="A new folder, or one without a manifest.")] = Path(
        "."
    ),
) -> None:
    """Begin a project: folders, and a manifest for a model and data of your own."""
    from r1pipe.manifest.recipe import recipe_root
    from r1pipe.store.disk import place_errors, place_text

    target, root = folder / OWN, recipe_root()
    if os.path.lexists(target):
        raise ArtifactError(f"{target} exists; name a new folder, or go on with that manifest")
    if root is None:
        raise ArtifactError("r1pipe's own manifests are not installed; install it again")
    text = (root / OWN).read_text(encoding="utf-8")
    with place_errors(folder):
        for name in FOLDERS:
            (folder / name).mkdir(parents=True, exist_ok=True)
        place_text(target, text)
    where = "" if folder == Path(".") else f"cd {shlex.quote(str(folder))} && "
    say(f"{target}: put the paths of your model and data in, then: {where}r1pipe plan {OWN}")
