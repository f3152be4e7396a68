"""Options and helpers that the commands share.

Modules of commands do without postponed annotations: typer would compile each one again.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r1pipe.cli import completing
from r1pipe.cli.defaults import default_manifest, meant_manifest
from r1pipe.cli.printing import print_json as print_json

if TYPE_CHECKING:
    from r1pipe.api.project import Project
    from r1pipe.store.store import Store

DEFAULT_MANIFEST: Any = meant_manifest
"""Called when a command line is read: what it returns depends on the current folder."""
ANY_MANIFEST: Any = default_manifest
"""Where only the folder of the manifest counts."""
SHOWN_DEFAULT = "the only one in manifests/, else manifests/r1.yaml"

ManifestArgument = Annotated[Path, typer.Argument(help="The manifest.", show_default=SHOWN_DEFAULT)]
ManifestOption = Annotated[
    Path, typer.Option("--manifest", "-m", help="The manifest.", show_default=SHOWN_DEFAULT)
]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile",
        "-p",
        help="The profile; else the manifest's own.",
        autocompletion=completing.profiles,
    ),
]
StageArgument = Annotated[
    str, typer.Argument(help="The stage.", show_default=False, autocompletion=completing.stages)
]
ResultArgument = Annotated[
    str,
    typer.Argument(
        help="A stage, stage@7f3a, a tag or an id.",
        show_default=False,
        autocompletion=completing.results,
    ),
]
ToOption = Annotated[
    str | None,
    typer.Option(
        "--to", help="Only this stage and what it needs.", autocompletion=completing.stages
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="stages.X.params.lr=2e-5, params.seed=3, ...; may be repeated."),
]
StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store",
        envvar="R1PIPE_STORE",
        help="The store; else artifacts/ beside the manifest's folder.",
        show_default=False,
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before a large run.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def command_group() -> typer.Typer:
    """Return the Typer app for a module's commands; `r1pipe.cli.table` lists them."""
    return typer.Typer(rich_markup_mode=None)


def open_store(store: Path | None, manifest: Path | None = None) -> "Store":
    """Return the store that was asked for, or the one that goes with a manifest."""
    from r1pipe.store.store import Store

    return Store(store_folder(store, manifest))


def store_folder(store: Path | None, manifest: Path | None = None) -> Path:
    """Return the path of a store, whether or not it exists."""
    from r1pipe.manifest.recipe import default_store

    return store or default_store(manifest or default_manifest())


def load(
    path: Path, profile: str | None, overrides: list[str] | None, store: Path | None
) -> "Project":
    """Return a resolved manifest with its store."""
    from r1pipe.api.project import load

    return load(path, profile=profile, sets=overrides or (), store=store)
