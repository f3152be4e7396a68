"""Commands that hand results on: push."""

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from r1pipe.cli.options import (
    DEFAULT_MANIFEST,
    JsonOption,
    ManifestOption,
    ProfileOption,
    SetOption,
    StageArgument,
    StoreOption,
    command_group,
    load,
    print_json,
)
from r1pipe.cli.printing import say, say_lines
from r1pipe.errors import ArtifactError
from r1pipe.text import format_bytes

if TYPE_CHECKING:
    from r1pipe.sharing.parcel import Parcel

REPO = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)

app = command_group()


@app.command()
def push(  # noqa: PLR0913 - options of one command
    stage: StageArgument,
    repo: Annotated[
        str | None, typer.Argument(help="OWNER/NAME on the Hub.", show_default=False)
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FOLDER", help="Write it here and push nothing."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be pushed and push nothing.")
    ] = False,
    output: Annotated[
        str | None, typer.Option("--output", help="Which output, if it has several.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="For all to see; without it, private.")
    ] = False,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    profile: ProfileOption = None,
    overrides: SetOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Push a model or rows to the Hub, with a card made from the record."""
    from r1pipe.sharing.parcel import make_parcel, write_folder

    if to is None and repo is None and not dry_run:
        raise ArtifactError("say where: r1pipe push STAGE OWNER/NAME, or STAGE --to FOLDER")
    if repo is not None and not REPO.fullmatch(repo):
        raise ArtifactError(
            f"'{repo}' is no OWNER/NAME of the Hub; to write a folder: r1pipe push {stage} --to"
            f" {shlex.quote(repo)}"
        )
    project = load(manifest, profile, overrides, store)
    record = project[stage].record
    parcel = make_parcel(project.manifest, project.opened, record, output)
    where = str(to or repo or "a dry run")
    if to is not None:
        write_folder(parcel, to)
    elif not dry_run:
        where = _to_hub(parcel, str(repo), f"{stage}: artifact {record.artifact_id}", public)
    names = sorted({*parcel.files, *parcel.texts})
    if as_json:
        print_json({"where": where, "type": parcel.type, "size": parcel.size, "files": names})
    else:
        say_lines([f"  {name}" for name in names])
        is_kept = dry_run or (to is not None and repo is not None)
        unsent = "; nothing was pushed" if is_kept else ""
        unsent += f" to {repo}" if is_kept and repo not in (None, where) else ""
        say(f"{where}: {parcel.type} of {stage}, {format_bytes(parcel.size)}{unsent}")


def _to_hub(parcel: "Parcel", repo: str, message: str, public: bool) -> str:
    from r1pipe.sharing.hub import push as push_to_hub

    return push_to_hub(parcel, repo, message, public=public)
