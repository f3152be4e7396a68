"""Commands that only read: plan, show, why, schema."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from r1pipe.cli import completing
from r1pipe.cli.options import (
    ANY_MANIFEST,
    DEFAULT_MANIFEST,
    JsonOption,
    ManifestArgument,
    ManifestOption,
    ProfileOption,
    SetOption,
    StageArgument,
    StoreOption,
    ToOption,
    command_group,
    load,
    open_store,
    print_json,
)
from r1pipe.cli.printing import say, say_lines
from r1pipe.errors import ArtifactError

if TYPE_CHECKING:
    from r1pipe.api.results import Result, Results
    from r1pipe.manifest import Manifest
    from r1pipe.pipeline.planning import Plan
    from r1pipe.store.store import Store

app = command_group()


@app.command()
def plan(  # noqa: PLR0913 - options of one command
    manifest: ManifestArgument = DEFAULT_MANIFEST,
    profile: ProfileOption = None,
    overrides: SetOption = None,
    to: ToOption = None,
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
    from r1pipe.fitting import window_height, window_width

    project = load(manifest, profile, overrides, store)
    found = project.plan(to=to)
    if probe:
        from r1pipe.pipeline import probe as probing

        probing.probe(project.manifest)
    cost = project.costs(found, price)
    if as_json:
        print_json(_plan_json(project.manifest, found) | {"costs": cost.to_json()})
        return
    width = window_width(sys.stdout)
    below = plan_view.found_lines(found, width)
    if verbose:
        say_lines([*plan_view.plan_lines(found, width), *below, *cost.lines(width)])
        return
    height = window_height(sys.stdout)
    say_lines([*plan_view.short_plan_lines(found, cost, width, height), *below])


AttemptOption = Annotated[
    bool, typer.Option("--attempt", help="What is being built, or was stopped, paused or failed.")
]


@app.command()
def show(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A stage, stage@7f3a, a tag or an id; all artifacts without one.",
            show_default=False,
            autocompletion=completing.results,
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
    attempt: AttemptOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show all artifacts, or everything about one."""
    from r1pipe.api.results import Results

    opened = open_store(store)
    results = Results(opened)
    if name is None:
        _show_all(results, as_json)
        return
    result = None if attempt else _result_of(results, opened, name)
    if result is None:
        _show_attempt(opened, name, as_json)
        return
    if row is not None or why_not is not None:
        _show_row(result, opened, row, why_not, as_json)
    elif lineage:
        _show_lineage(result, opened, as_json)
    else:
        _show_result(result, opened, as_json)


def _show_row(
    result: "Result", opened: "Store", row: str | None, why_not: str | None, as_json: bool
) -> None:
    from r1pipe.cli import rows_view

    rows_view.print_row(opened, result.record, row, why_not, as_json)


def _show_lineage(result: "Result", opened: "Store", as_json: bool) -> None:
    if as_json:
        print_json(result.lineage())
        return
    from r1pipe.cli import views

    say_lines(views.lineage_lines(result.record, opened.known()))


def _show_result(result: "Result", opened: "Store", as_json: bool) -> None:
    if as_json:
        print_json(result.show())
        return
    from r1pipe.cli import views

    say(views.record_text(result.record, opened))
    if opened.attempts(stage := result.record.stage_name):
        say(f"\nan attempt at it is not finished: r1pipe show {stage} --attempt")


def _result_of(results: "Results", store: "Store", name: str) -> "Result | None":
    """Return the result that a name stands for; None if there is only an attempt at it."""
    try:
        return results[name]
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


def _show_all(results: "Results", as_json: bool) -> None:
    if as_json:
        print_json(results.show())
        return
    from r1pipe.cli import views

    say(views.table_text([result.record for result in results]))


@app.command()
def why(
    name: StageArgument,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    profile: ProfileOption = None,
    overrides: SetOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say why a stage runs or not: what changed, and where."""
    from r1pipe.fitting import window_width, wrapped_lines
    from r1pipe.pipeline.why import explain

    project = load(manifest, profile, overrides, store)
    explanation = explain(project.manifest, project.opened, name)
    if as_json:
        print_json(explanation.to_json())
    else:
        say_lines(wrapped_lines(explanation.lines(), window_width(sys.stdout)))


@app.command()
def schema(manifest: ManifestArgument = ANY_MANIFEST) -> None:
    """Print the JSON Schema of manifests, for editors."""
    from r1pipe.manifest.json_schema import manifest_schema
    from r1pipe.manifest.kinds import load_kinds
    from r1pipe.manifest.recipe import find_manifest

    print_json(manifest_schema(load_kinds(find_manifest(manifest))))


def _plan_json(manifest: "Manifest", found: "Plan") -> dict[str, object]:
    stages = [asdict(stage) for stage in found.stages]
    sources = [asdict(look) for look in found.looks]
    head = {"manifest": manifest.name, "profile": manifest.profile}
    return {**head, "stages": stages, "sources": sources, "notes": list(found.notes)}
