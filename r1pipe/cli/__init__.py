"""The command line: thin commands over manifest, store and pipeline.

What was asked for goes to stdout (`--json`: one document), everything else to stderr. An expected
error ends with its message and exit code; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r1pipe.cli import doctor, verify_commands
from r1pipe.cli import store_commands as cli_store
from r1pipe.cli.options import (
    DEFAULT_MANIFEST,
    CheckpointOption,
    JsonOption,
    ManifestArgument,
    ManifestOption,
    ProfileOption,
    SetOption,
    StoreOption,
    YesOption,
    load,
    open_store,
    print_json,
)
from r1pipe.errors import ArtifactError, R1PipeError

if TYPE_CHECKING:
    from r1pipe.manifest import Manifest
    from r1pipe.pipeline import RunResult
    from r1pipe.pipeline.planning import Plan
    from r1pipe.store import Store

QUICK_PROFILES = ("laptop", "smoke")
"""Profiles so small that nobody is asked before a run."""

app = typer.Typer(
    help="Reproduce the DeepSeek-R1 recipe from one declarative manifest.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(cli_store.app)
app.add_typer(verify_commands.app)
app.add_typer(doctor.app)


def main() -> None:
    """Run the command line; the console script's entry."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except R1PipeError as error:
        print("\n".join([str(error), *getattr(error, "__notes__", [])]), file=sys.stderr)
        sys.exit(error.exit_code)


@app.command()
def run(
    manifest: ManifestArgument,
    profile: ProfileOption = None,
    overrides: SetOption = None,
    to: Annotated[
        str | None, typer.Option("--to", help="Stop after this stage and what it needs.")
    ] = None,
    rebuild: Annotated[
        list[str] | None, typer.Option("--rebuild", help="Run this stage in any case.")
    ] = None,
    yes: YesOption = False,
    checkpoint_every: CheckpointOption = 30.0,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a manifest: every stage whose result is not in the store yet."""
    loaded = load(manifest, profile, overrides)
    selection: dict[str, Any] = {
        "to": to,
        "rebuild": rebuild or (),
        "checkpoint_every_s": checkpoint_every,
    }
    _run(loaded, open_store(store, manifest), yes, as_json, **selection)


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help="The stage.", show_default=False)],
    manifest: ManifestOption = DEFAULT_MANIFEST,
    profile: ProfileOption = None,
    overrides: SetOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Only go on with an attempt; never start anew.")
    ] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Run it in any case.")] = False,
    yes: YesOption = False,
    checkpoint_every: CheckpointOption = 30.0,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run one stage; its inputs are taken from the store."""
    loaded = load(manifest, profile, overrides)
    again = [name] if rebuild else []
    selection: dict[str, Any] = {
        "only": name,
        "rebuild": again,
        "checkpoint_every_s": checkpoint_every,
    }
    _run(loaded, open_store(store, manifest), yes, as_json, resume=resume, **selection)


@app.command()
def plan(
    manifest: ManifestArgument = DEFAULT_MANIFEST,
    profile: ProfileOption = None,
    overrides: SetOption = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Measure each engine on this machine first.")
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a run would do, why, and what it will cost."""
    from r1pipe.cli import costs
    from r1pipe.cli.console import plan_lines
    from r1pipe.pipeline import planning

    loaded = load(manifest, profile, overrides)
    opened = open_store(store, manifest)
    found = planning.plan(loaded, opened)
    if probe:
        costs.probe(loaded)
    cost = costs.plan_costs(loaded, opened, found)
    if as_json:
        print_json(_plan_json(loaded, found) | {"costs": cost.to_json()})
    else:
        print("\n".join([*plan_lines(found), *cost.lines()]))


@app.command()
def show(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A stage, stage@7f3a, a tag or an id; all artifacts without one.",
            show_default=False,
        ),
    ] = None,
    lineage: Annotated[
        bool, typer.Option("--lineage", help="What it was made from and what used it.")
    ] = False,
    row: Annotated[
        str | None, typer.Option("--row", metavar="ID", help="One row's whole way.")
    ] = None,
    why_not: Annotated[
        str | None, typer.Option("--why-not", metavar="ID", help="Why it is without a row.")
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show all artifacts, or everything about one."""
    from r1pipe.cli import views

    opened = open_store(store)
    if name is None:
        records = opened.records()
        if as_json:
            print_json([views.summary_json(record) for record in records])
        else:
            print(views.table_text(records))
        return
    record = opened.resolve(name)
    if row is not None or why_not is not None:
        from r1pipe.cli import rows_view

        rows_view.print_row(opened, record, row, why_not, as_json)
    elif lineage:
        records = opened.records()
        if as_json:
            print_json(views.lineage_json(record, records))
        else:
            print("\n".join(views.lineage_lines(record, records)))
    elif as_json:
        print_json(views.record_json(record, opened))
    else:
        print(views.record_text(record, opened))


@app.command()
def why(
    name: Annotated[str, typer.Argument(help="The stage.", show_default=False)],
    manifest: ManifestOption = DEFAULT_MANIFEST,
    profile: ProfileOption = None,
    overrides: SetOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say why a stage runs or not: what changed, and where."""
    from r1pipe.pipeline.why import explain

    loaded = load(manifest, profile, overrides)
    explanation = explain(loaded, open_store(store, manifest), name)
    if as_json:
        print_json(explanation.to_json())
    else:
        print("\n".join(explanation.lines()))


@app.command()
def schema(manifest: ManifestArgument = DEFAULT_MANIFEST) -> None:
    """Print the JSON Schema of manifests, for editors."""
    from r1pipe.manifest.kinds import load_kinds
    from r1pipe.manifest.recipe import find_manifest
    from r1pipe.manifest.schema import manifest_schema

    print_json(manifest_schema(load_kinds(find_manifest(manifest))))


def _run(
    manifest: Manifest,
    store: Store,
    is_agreed: bool,
    as_json: bool,
    *,
    resume: bool = False,
    **selection: Any,
) -> None:
    """Run stages, then print the scoreboard where there is one; `selection` is `pipeline.run`'s."""
    from r1pipe import pipeline
    from r1pipe.cli.console import make_console

    def after_plan(found: Any) -> None:
        if resume:
            _check_resumable(found)
        if not is_agreed and manifest.profile not in QUICK_PROFILES:
            _ask(found)

    console = make_console(after_plan)
    result = pipeline.run(manifest, store, console, **selection)
    if as_json:
        print_json(_result_json(manifest, store, result))
    elif (board := _scoreboard(store, result)) is not None:
        print((board / "scoreboard.txt").read_text(encoding="utf-8").rstrip("\n"))


def _check_resumable(found: Plan) -> None:
    for planned in found.stages:
        if planned.status not in ("resume", "hit"):
            raise ArtifactError(
                f"{planned.name}: there is no attempt to go on with; leave out --resume to start it"
            )


def _ask(found: Plan) -> None:
    """Ask before work that is not known to be small, where there is someone to ask."""
    count = sum(planned.builds for planned in found.stages)
    if count and sys.stdin.isatty() and sys.stderr.isatty():
        typer.confirm(f"Build {count} stages?", default=True, abort=True, err=True)


def _scoreboard(store: Store, result: RunResult) -> Path | None:
    """Return the report of the last scoreboard among the stages of a run."""
    for stage_result in reversed(list(result.stages.values())):
        if stage_result.record.kind == "scoreboard" and stage_result.status != "lost":
            return store.output_dir(stage_result.record, "report")
    return None


def _result_json(manifest: Manifest, store: Store, result: RunResult) -> dict[str, Any]:
    stages = [
        {
            "name": each.name,
            "kind": each.record.kind,
            "status": each.status,
            "seconds": each.seconds,
            "key": each.record.key,
            "artifact": each.record.artifact_id,
        }
        for each in result.stages.values()
    ]
    board = _scoreboard(store, result)
    return {
        "manifest": manifest.name,
        "profile": manifest.profile,
        "built": result.built,
        "stages": stages,
        "scoreboard": board and json.loads((board / "scoreboard.json").read_text()),
    }


def _plan_json(manifest: Manifest, found: Plan) -> dict[str, Any]:
    stages = [asdict(stage) for stage in found.stages]
    return {"manifest": manifest.name, "profile": manifest.profile, "stages": stages}


if __name__ == "__main__":
    main()
