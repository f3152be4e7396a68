"""Commands that only read: plan, show, why, schema."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from r1pipe.cli.options import (
    DEFAULT_MANIFEST,
    JsonOption,
    ManifestArgument,
    ManifestOption,
    ProfileOption,
    SetOption,
    StoreOption,
    command_group,
    load,
    open_store,
    print_json,
)
from r1pipe.cli.printing import say, say_lines
from r1pipe.errors import ArtifactError

if TYPE_CHECKING:
    from r1pipe.manifest import Manifest
    from r1pipe.pipeline.planning import Plan
    from r1pipe.store.actions import ActionRecord
    from r1pipe.store.store import Store

app = command_group()


@app.command()
def plan(  # noqa: PLR0913 - options of one command
    manifest: ManifestArgument = DEFAULT_MANIFEST,
    profile: ProfileOption = None,
    overrides: SetOption = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Measure each engine on this machine first.")
    ] = False,
    price: Annotated[
        float | None, typer.Option("--price", min=0.0, help="Of one GPU for an hour.")
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Every stage, its reasons and costs.")
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a run would do, why, and what it will cost."""
    from r1pipe.cli import plan_view
    from r1pipe.costs.report import stage_costs
    from r1pipe.pipeline import planning

    loaded = load(manifest, profile, overrides)
    opened = open_store(store, manifest)
    found = planning.plan(loaded, opened)
    if probe:
        from r1pipe.pipeline import probe as probing

        probing.probe(loaded)
    names = [stage.name for stage in found.stages if stage.builds]
    cost = stage_costs(loaded, opened, found.records, names, price)
    if as_json:
        print_json(_plan_json(loaded, found) | {"costs": cost.to_json()})
        return
    width, sources = plan_view.window_width(sys.stdout), plan_view.source_lines(found)
    if verbose:
        say_lines([*plan_view.plan_lines(found, width), *sources, *cost.lines(width)])
        return
    height = plan_view.window_height(sys.stdout)
    say_lines([*plan_view.short_plan_lines(found, cost, width, height), *sources])


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
    attempt: Annotated[
        bool,
        typer.Option("--attempt", help="What is being built, or was stopped, paused or failed."),
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show all artifacts, or everything about one."""
    opened = open_store(store)
    if name is None:
        _show_all(opened.records(), as_json)
        return
    record = None if attempt else _record_of(opened, name)
    if record is None:
        _show_attempt(opened, name, as_json)
        return
    if row is not None or why_not is not None:
        from r1pipe.cli import rows_view

        rows_view.print_row(opened, record, row, why_not, as_json)
    elif lineage:
        _show_lineage(opened, record, as_json)
    else:
        _show_record(opened, record, as_json)


def _show_lineage(opened: "Store", record: "ActionRecord", as_json: bool) -> None:
    from r1pipe.cli import views

    records = opened.known()
    if as_json:
        print_json(views.lineage_json(record, records))
    else:
        say_lines(views.lineage_lines(record, records))


def _show_record(opened: "Store", record: "ActionRecord", as_json: bool) -> None:
    from r1pipe.cli import views

    if as_json:
        print_json(views.record_json(record, opened))
        return
    say(views.record_text(record, opened))
    if opened.attempts(record.stage_name):
        say(f"\nan attempt at it is not finished: r1pipe show {record.stage_name} --attempt")


def _record_of(store: "Store", name: str) -> "ActionRecord | None":
    """Return the record that a name stands for; None if there is only an attempt at it."""
    try:
        return store.resolve(name)
    except ArtifactError:
        if store.attempts(name):
            return None
        raise


def _show_attempt(store: "Store", name: str, as_json: bool) -> None:
    from r1pipe.cli.attempt_view import attempt_json, attempt_text

    found = store.attempts(name)
    if not found:
        raise ArtifactError(f"no attempt at a stage '{name}' is unfinished")
    if as_json:
        print_json(attempt_json(store, found[-1]))
    else:
        say(attempt_text(store, found[-1]))


def _show_all(records: "list[ActionRecord]", as_json: bool) -> None:
    from r1pipe.cli import views

    if as_json:
        print_json([views.summary_json(record) for record in records])
    else:
        say(views.table_text(records))


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
        say_lines(explanation.lines())


@app.command()
def schema(manifest: ManifestArgument = DEFAULT_MANIFEST) -> None:
    """Print the JSON Schema of manifests, for editors."""
    from r1pipe.manifest.kinds import load_kinds
    from r1pipe.manifest.recipe import find_manifest
    from r1pipe.manifest.schema import manifest_schema

    print_json(manifest_schema(load_kinds(find_manifest(manifest))))


def _plan_json(manifest: "Manifest", found: "Plan") -> dict[str, object]:
    stages = [asdict(stage) for stage in found.stages]
    sources = [asdict(look) for look in found.looks]
    head = {"manifest": manifest.name, "profile": manifest.profile}
    return {**head, "stages": stages, "sources": sources}
