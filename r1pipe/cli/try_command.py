"""The command `try`: a few completions of a stage before it runs."""

import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from typing import Annotated

import typer

from r1pipe.cli.options import (
    DEFAULT_MANIFEST,
    JsonOption,
    ManifestOption,
    ProfileOption,
    SetOption,
    StageArgument,
    StoreOption,
    YesOption,
    command_group,
    load,
    print_json,
)
from r1pipe.cli.printing import complain, say_lines
from r1pipe.errors import ArtifactError

app = command_group()


@app.command(name="try")
def try_stage(  # noqa: PLR0913 - options of one command
    name: StageArgument,
    manifest: ManifestOption = DEFAULT_MANIFEST,
    problems: Annotated[int, typer.Option("--problems", min=1, help="How many to sample.")] = 8,
    before: Annotated[
        bool, typer.Option("--before", help="Build what the stage reads first, as a run would.")
    ] = False,
    yes: YesOption = False,
    profile: ProfileOption = None,
    overrides: SetOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sample a few problems as a stage would, and show prompts, answers and rewards."""
    from r1pipe.cli.run_commands import build_before
    from r1pipe.cli.trying import check_can_try, trial_lines, trials_of
    from r1pipe.launch.process import prepare_process
    from r1pipe.pipeline.built import stage_with_inputs
    from r1pipe.pipeline.planning import check_names
    from r1pipe.plugins.tables import using

    project = load(manifest, profile, overrides, store)
    loaded, opened = project.manifest, project.opened
    check_names(loaded, opened, [name])
    check_can_try(loaded.stages[name])
    try:
        node, inputs = stage_with_inputs(loaded, opened, name)
    except ArtifactError:
        if not before:
            raise
        build_before(project, name, yes)
        node, inputs = stage_with_inputs(loaded, opened, name)
    else:
        if before:
            complain(f"{name}: all that it reads is in the store")
    prepare_process()
    with redirect_stdout(sys.stderr), using(loaded.plugins, node.plugins):
        trials = trials_of(node, inputs, problems)
    if as_json:
        print_json([asdict(trial) for trial in trials])
    else:
        say_lines(trial_lines(trials))
