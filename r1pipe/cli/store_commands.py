"""Commands on the store itself: diff, fsck, gc, pin, tag, export, import."""

import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from r1pipe.cli import completing
from r1pipe.cli.options import (
    DEFAULT_MANIFEST,
    JsonOption,
    ManifestOption,
    ProfileOption,
    ResultArgument,
    SetOption,
    StoreOption,
    command_group,
    load,
    open_store,
    print_json,
)
from r1pipe.cli.printing import complain, say_lines
from r1pipe.errors import ArtifactError, DamagedError
from r1pipe.fitting import window_width, wrapped_lines
from r1pipe.text import format_bytes

if TYPE_CHECKING:
    from r1pipe.store.actions import ActionRecord
    from r1pipe.store.store import Store

app = command_group()


@app.command()
def diff(
    old: ResultArgument, new: ResultArgument, store: StoreOption = None, as_json: JsonOption = False
) -> None:
    """Compare two artifacts: key, metrics, files, rows."""
    from r1pipe.store.diff import diff as compare

    opened = open_store(store)
    found = compare(opened, opened.resolve(old), opened.resolve(new))
    _print(found.to_json(), wrapped_lines(found.lines(), window_width(sys.stdout)), as_json)


@app.command()
def fsck(
    full: Annotated[bool, typer.Option("--full", help="Read every byte again.")] = False,
    set_aside: Annotated[
        bool, typer.Option("--set-aside", help="Move what is damaged to the trash.")
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check the store; ends with 6 if it is damaged."""
    from r1pipe.store.fsck import fsck as check

    report = check(open_store(store), full=full, set_aside=set_aside)
    _print(asdict(report), report.lines(), as_json)
    if report.damage:
        raise typer.Exit(DamagedError.exit_code)


@app.command()
def gc(
    move: Annotated[
        bool, typer.Option("--move", help="Move to the trash; without it nothing is touched.")
    ] = False,
    attempts: Annotated[
        bool, typer.Option("--attempts", help="Give up attempts that could be resumed, too.")
    ] = False,
    empty_trash: Annotated[
        bool, typer.Option("--empty-trash", help="Delete the contents of the trash for good.")
    ] = False,
    restore: Annotated[
        str | None, typer.Option("--restore", help="Bring an artifact back from the trash, by id.")
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what no pin, tag or last run needs, or move it to the trash."""
    from r1pipe.store import gc as garbage

    opened = open_store(store)
    if restore is not None:
        artifact = garbage.restore(opened, restore)
        _print({"restored": artifact}, [f"restored {artifact}"], as_json)
        return
    if empty_trash:
        size = garbage.empty_trash(opened)
        _print({"deleted_bytes": size}, [f"{format_bytes(size)} deleted"], as_json)
        return
    report = garbage.collect_garbage(opened, move=move, attempts=attempts)
    lines = report.lines()
    if report.doomed and not move:
        lines.append("'r1pipe gc --move' moves them; '--empty-trash' then deletes them")
    _print(asdict(report) | {"size": report.size}, lines, as_json)


@app.command()
def pin(
    name: Annotated[
        str | None,
        typer.Argument(
            help="What to pin; lists the pins without one.",
            show_default=False,
            autocompletion=completing.results,
        ),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the pin away.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep an artifact from being collected."""
    from r1pipe.store import disk, roots

    opened = open_store(store)
    if name is not None:
        record = opened.resolve(name)
        with disk.store_errors(opened.root, "the pin cannot be changed"):
            (roots.unpin if remove else roots.pin)(opened.root, record.key)
    pinned = [record for record in opened.records() if record.key in roots.pins(opened.root)]
    if not pinned and not as_json:
        complain("nothing is pinned; 'r1pipe pin STAGE' keeps a result from being collected")
    _print([_row(record) for record in pinned], [_label(record) for record in pinned], as_json)


@app.command()
def tag(
    tag_name: Annotated[
        str | None,
        typer.Argument(metavar="TAG", help="The tag; lists the tags without one."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="ARTIFACT",
            help="A stage, stage@7f3a, a tag or an id.",
            autocompletion=completing.results,
        ),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the tag away.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Name an artifact, and keep it from being collected."""
    from r1pipe.store import disk, roots

    opened = open_store(store)
    if tag_name is not None and not remove and name is None:
        raise ArtifactError(f"say which artifact '{tag_name}' is to name: r1pipe tag TAG ARTIFACT")
    with disk.store_errors(opened.root, "the tag cannot be changed"):
        if tag_name is not None and remove:
            roots.remove_tag(opened.root, tag_name)
        elif tag_name is not None and name is not None:
            record = opened.resolve(name)
            _check_tag(opened, tag_name)
            roots.add_tag(opened.root, tag_name, record.key)
    by_key = {record.key: record for record in opened.records()}
    tags = {each: by_key[key] for each, key in roots.tags(opened.root).items() if key in by_key}
    lines = [f"{each}  {_label(record)}" for each, record in tags.items()]
    if not tags and not as_json:
        complain("there is no tag; 'r1pipe tag NAME STAGE' gives one to a result")
    _print({each: _row(record) for each, record in tags.items()}, lines, as_json)


def _check_tag(opened: "Store", name: str) -> None:
    """Refuse a new tag that is the name of a stage: the stage's later results would be hidden."""
    from r1pipe.store.roots import tags

    if name not in tags(opened.root) and any(r.stage_name == name for r in opened.records()):
        raise ArtifactError(
            f"'{name}' is the name of a stage, whose later results a tag would hide; take another,"
            f" such as '{name}-1'"
        )


@app.command()
def export(
    name: ResultArgument,
    destination: Annotated[
        Path, typer.Argument(help="A new folder, or a file that ends in .tar.", show_default=False)
    ],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy an artifact out of the store, verified."""
    from r1pipe.store import transfer

    opened = open_store(store)
    record = opened.resolve(name)
    seal = transfer.export(opened, record, destination)
    lines = [f"{_label(record)}: {format_bytes(seal.size)} to {destination}"]
    _print(_row(record) | {"destination": str(destination)}, lines, as_json)


@app.command("import")
def import_(
    source: Annotated[
        Path, typer.Argument(help="What 'export' wrote: a folder or a .tar.", show_default=False)
    ],
    verify: Annotated[
        str | None,
        typer.Option("--verify", metavar="STAGE", help="Build this stage again, and compare."),
    ] = None,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    profile: ProfileOption = None,
    overrides: SetOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring an exported artifact into the store, its bytes verified.

    What its key says of it is the word of its sender, unless --verify builds it again.
    """
    from r1pipe.store.importing import import_artifact

    opened = open_store(store)
    project = None if verify is None else load(manifest, profile, overrides, opened.root)
    record, above = import_artifact(opened, source)
    lines = [f"imported {_label(record)}"]
    if project is not None and verify is not None:
        from r1pipe.cli.console import make_console
        from r1pipe.pipeline.verifying import verify_import

        with redirect_stdout(sys.stderr):
            args = project.manifest, opened, make_console(), [record, *above], verify
            made = verify_import(*args)
        lines.append(f"{_label(made)}: built again, the same bytes")
    _print(_row(record) | {"verified": verify}, lines, as_json)


def _print(document: object, lines: list[str], as_json: bool) -> None:
    if as_json:
        print_json(document)
    elif lines:
        say_lines(lines)


def _label(record: "ActionRecord") -> str:
    return f"{record.stage_name}@{record.artifact_id[:12]}"


def _row(record: "ActionRecord") -> dict[str, object]:
    from r1pipe.api.documents import summary

    return dict(summary(record))
