"""Commands that build: run, stage."""

import inspect
import json
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r1pipe.cli import completing
from r1pipe.cli.options import (
    DEFAULT_MANIFEST,
    JsonOption,
    ManifestArgument,
    ManifestOption,
    ProfileOption,
    SetOption,
    StageArgument,
    StoreOption,
    ToOption,
    YesOption,
    command_group,
    load,
    print_json,
)
from r1pipe.cli.printing import complain, say_lines
from r1pipe.errors import ArtifactError
from r1pipe.keys import JsonObject

if TYPE_CHECKING:
    from r1pipe.api.project import Project
    from r1pipe.manifest import Manifest
    from r1pipe.pipeline.planning import Plan
    from r1pipe.pipeline.run import RunResult
    from r1pipe.store.actions import ActionRecord
    from r1pipe.store.store import Store

CheckpointOption = Annotated[
    float,
    typer.Option(
        "--checkpoint-every",
        min=0.0,
        help="Seconds between checkpoints; more if saving takes over 5 % of them.",
    ),
]
LockedOption = Annotated[
    bool, typer.Option("--locked", help="Stop at the first departure from the manifest's lock.")
]
QUICK_PROFILES = ("laptop", "smoke")
"""Profiles so small that a run does not ask first."""

app = command_group()


def run_stages(  # noqa: PLR0913 - options of one command
    manifest: Path,
    selection: JsonObject,
    profile: ProfileOption = None,
    overrides: SetOption = None,
    yes: YesOption = False,
    checkpoint_every: CheckpointOption = 30.0,
    locked: LockedOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the selected stages, then print the scoreboard if there is one.

    `selection` is that of `Project.run`, and `resume`; the other parameters are options of every
    command made by `running`.
    """
    from r1pipe.cli.console import make_console

    project = load(manifest, profile, overrides, store)
    resume = selection.pop("resume", False)
    ask = ask_before(project.manifest, project.opened, yes)

    def after_plan(found: "Plan") -> None:
        if resume:
            _check_resumable(found)
        ask(found)

    selection["checkpoint_every_s"] = checkpoint_every
    if locked:
        selection["check"] = _check_of_lock(project.manifest, project.opened)
    with redirect_stdout(sys.stderr):  # libraries print, and stdout is for what was asked for
        result = project.run(console=make_console(after_plan), **selection)
    if as_json:
        print_json(_result_json(project.manifest, project.opened, result))
    elif (board := _scoreboard(result)) is not None:
        _print_board(board, project.opened)


def build_before(project: "Project", name: str, yes: bool) -> None:
    """Build all that a stage reads; ask first if it may be much."""
    from r1pipe.cli.console import make_console

    with redirect_stdout(sys.stderr):
        ask = ask_before(project.manifest, project.opened, yes)
        project.run(console=make_console(ask), before=name)


def ask_before(manifest: "Manifest", store: "Store", yes: bool) -> "Callable[[Plan], None]":
    """Return what is done with a plan before its run: ask first if it may be much."""

    def after_plan(found: "Plan") -> None:
        if not yes and manifest.profile not in QUICK_PROFILES:
            _ask(found, manifest, store)

    return after_plan


def _check_of_lock(manifest: "Manifest", store: "Store") -> "Callable[[str, ActionRecord], None]":
    """Check a manifest against its lock; return the check of every stage's result.

    Of locks of the same run, that of this machine's kind of processor is taken, and named.
    """
    from r1pipe.pipeline.lock import (
        check_recipe,
        check_result,
        fitting_lock,
        lock_path,
        read_lock,
    )
    from r1pipe.pipeline.resolution import Resolver

    path = lock_path(manifest.path, manifest.profile)
    lock = read_lock(path)
    if (fitting := fitting_lock(path, lock)) is not None:
        complain(f"held to {fitting}: it names this kind of processor, {path.name} does not")
        lock = read_lock(fitting)
    check_recipe(lock, manifest, Resolver(manifest, store))
    return partial(check_result, lock)


def _print_board(board: "ActionRecord", store: "Store") -> None:
    from r1pipe.cli.scores_view import score_lines

    width = shutil.get_terminal_size((160, 24)).columns
    say_lines(score_lines(board, store, width))


def running(select: Callable[..., JsonObject]) -> Callable[..., None]:
    """Make a command, with the shared options, of a function that returns the stages to run."""
    own = inspect.signature(select).parameters
    shared = list(inspect.signature(run_stages).parameters.values())[2:]

    @wraps(select)
    def command(manifest: Path, **options: Any) -> None:
        chosen = {name: options.pop(name) for name in own if name != "manifest"}
        run_stages(manifest, select(manifest=manifest, **chosen), **options)

    parameters = [*own.values(), *shared]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return app.command()(command)


@running
def run(
    manifest: ManifestArgument = DEFAULT_MANIFEST,
    to: ToOption = None,
    rebuild: Annotated[
        list[str] | None,
        typer.Option(
            "--rebuild", help="Run this stage in any case.", autocompletion=completing.stages
        ),
    ] = None,
    keep_going: Annotated[
        bool,
        typer.Option("--keep-going", "-k", help="If a stage fails, run those that do not need it."),
    ] = False,
) -> JsonObject:
    """Run a manifest: every stage whose result is not in the store yet."""
    return {"to": to, "rebuild": rebuild or (), "keep_going": keep_going}


@running
def stage(
    name: StageArgument,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    resume: Annotated[
        bool, typer.Option("--resume", help="Only continue an attempt; never start again.")
    ] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Run it in any case.")] = False,
) -> JsonObject:
    """Run one stage; its inputs are taken from the store."""
    return {"only": name, "rebuild": [name] if rebuild else (), "resume": resume}


def _check_resumable(found: "Plan") -> None:
    for planned in found.stages:
        if planned.status not in ("resume", "hit"):
            raise ArtifactError(
                f"{planned.name}: there is no attempt to go on with; leave out --resume to start it"
            )


def _ask(found: "Plan", manifest: "Manifest", store: "Store") -> None:
    """Ask before work that is not known to be small, if a person is at the terminal."""
    names = [planned.name for planned in found.stages if planned.builds]
    if names and sys.stdin.isatty() and sys.stderr.isatty():
        from r1pipe.costs.report import stage_costs

        for line in stage_costs(manifest, store, found.records, names).short_lines():
            complain(line)
        typer.confirm(f"Build {len(names)} stages?", default=True, abort=True, err=True)


def _scoreboard(result: "RunResult") -> "ActionRecord | None":
    """Return the last scoreboard among the stages of a run."""
    for stage_result in reversed(list(result.stages.values())):
        if stage_result.record.kind == "scoreboard" and stage_result.status != "lost":
            return stage_result.record
    return None


def _result_json(manifest: "Manifest", store: "Store", result: "RunResult") -> dict[str, object]:
    stages = [
        {
            "name": each.name,
            "kind": each.record.kind,
            "status": each.status,
            "seconds": each.seconds,
            "key": each.record.key,
            "artifact": each.record.artifact_id,
            "warnings": each.record.warnings(),
        }
        for each in result.stages.values()
    ]
    board = _scoreboard(result)
    path = board and store.output_dir(board, "report") / "scoreboard.json"
    return {
        "manifest": manifest.name,
        "profile": manifest.profile,
        "built": result.built,
        "stages": stages,
        "scoreboard": path and json.loads(path.read_text()),
    }
