"""The command `ablate`: parts of a chain left out in turn, and what that costs at its end."""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Annotated

import typer

from r1pipe.cli.options import (
    DEFAULT_MANIFEST,
    JsonOption,
    ManifestArgument,
    ProfileOption,
    SetOption,
    StoreOption,
    YesOption,
    command_group,
    open_store,
    print_json,
)
from r1pipe.cli.printing import complain, say_lines
from r1pipe.cli.run_commands import CheckpointOption, ask_before
from r1pipe.errors import ManifestError, Paused, R1PipeError, StageError
from r1pipe.keys import JsonObject

if TYPE_CHECKING:
    from r1pipe.manifest import Manifest
    from r1pipe.store.actions import ActionRecord
    from r1pipe.store.store import Store

WHOLE = "nothing"
"""The row of the whole chain, in a table of what is left out."""
TITLE = "What it costs to leave each one out (paired difference, 95 % interval; * excludes zero)"

app = command_group()


@app.command()
def ablate(  # noqa: PLR0913 - options of one command
    manifest: ManifestArgument = DEFAULT_MANIFEST,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Leave out only this; may be repeated.")
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", help="The evaluate stage; else the manifest's own.")
    ] = None,
    profile: ProfileOption = None,
    overrides: SetOption = None,
    yes: YesOption = False,
    checkpoint_every: CheckpointOption = 30.0,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Leave each part of a chain out in turn, and say what that costs at its end.

    The manifest's section `ablations` says how. What differs is built; the rest is in the store.
    A chain that stops on its way is named, and the others are measured.
    """
    from r1pipe.manifest import load_manifest

    whole = load_manifest(manifest, profile=profile, overrides=overrides or ())
    names, report = _chosen(whole, only or (), at)
    chains = [whole] + [
        load_manifest(manifest, profile=profile, overrides=overrides or (), ablation=name)
        for name in names
    ]
    opened = open_store(store, manifest)
    with redirect_stdout(sys.stderr):  # libraries print, and stdout is for what was asked for
        records, stopped = _reached(chains, opened, report, yes, checkpoint_every)
    board = _board(opened, records, names)
    said = {name: str(error) for name, error in stopped.items()}
    if as_json:
        keys = {name: record.key for name, record in records.items()}
        more = {"report": report, "profile": whole.profile, "keys": keys, "stopped": said}
        print_json(board | more)
    else:
        say_lines(_lines(board, said))
    if stopped:
        raise typer.Exit(max(error.exit_code for error in stopped.values()))


def _chosen(manifest: "Manifest", only: Sequence[str], at: str | None) -> tuple[list[str], str]:
    """Return what is left out in turn, and the stage that measures; refuse what is not there."""
    from r1pipe.manifest.names import nearest

    said = manifest.ablations
    if said is None:
        raise ManifestError(
            f"{manifest.path}: there is nothing to leave out; say what under"
            " 'ablations: {report: STAGE, without: {NAME: {stages: ...}}}'"
        )
    for name in only:
        if name not in said.without:
            end = nearest(name, said.without, "ablations")
            raise ManifestError(f"--only {name}: {manifest.path} has no such ablation{end}")
    report = at or said.report
    kinds = {name: node.kind.kind for name, node in manifest.stages.items()}
    if kinds.get(report) != "evaluate":
        fitting = [name for name, kind in kinds.items() if kind == "evaluate"]
        end = nearest(report, fitting, "evaluate stages")
        where = "--at" if at else f"{manifest.path}: ablations.report"
        raise ManifestError(f"{where}: '{report}' is no evaluate stage{end}")
    return [name for name in said.without if name in (only or said.without)], report


def _reached(
    chains: Sequence["Manifest"],
    store: "Store",
    report: str,
    yes: bool,
    checkpoint_every_s: float,
) -> "tuple[dict[str, ActionRecord], dict[str, R1PipeError]]":
    """Return the reports of all chains by name, and why the others have stopped.

    The whole chain, which all are compared to, may not stop.
    """
    records, stopped = dict[str, "ActionRecord"](), dict[str, R1PipeError]()
    for chain in chains:
        name = chain.ablation or WHOLE
        complain(f"without {name}:")
        try:
            records[name] = _measured(chain, store, report, yes, checkpoint_every_s)
        except (StageError, Paused) as error:
            if name == WHOLE:
                raise
            stopped[name] = error
    return records, stopped


def _board(
    store: "Store", records: "Mapping[str, ActionRecord]", names: Sequence[str]
) -> JsonObject:
    """Return the scoreboard of the chains; each of `names` is compared to the whole one."""
    from r1pipe.evaluation.scoreboard import build

    found = dict[str, JsonObject]()
    for name, record in records.items():
        path = store.output_dir(record, "report") / "summary.json"
        found[name] = json.loads(path.read_text())
    board: JsonObject = build(found, list(found), dict.fromkeys(names, WHOLE), seed=0)
    return board


def _measured(
    chain: "Manifest", store: "Store", report: str, yes: bool, checkpoint_every_s: float
) -> "ActionRecord":
    """Bring a chain's report into the store and return its record."""
    from r1pipe.cli.console import make_console
    from r1pipe.pipeline.run import run

    console = make_console(ask_before(chain, store, yes))
    result = run(chain, store, console, to=report, checkpoint_every_s=checkpoint_every_s)
    return result.stages[report].record


def _lines(board: JsonObject, stopped: Mapping[str, str]) -> list[str]:
    """Return the scores of every chain and what was lost, as tables of the terminal's width."""
    from r1pipe.evaluation.board_text import paired_table, scores_table, table_text

    width = shutil.get_terminal_size((160, 24)).columns
    scores, costs = scores_table(board, zeros=False), paired_table(board, TITLE)
    for table in (scores, costs):
        table.header[0] = "without"
    ends = [f"without {name} there is no score: {text}" for name, text in stopped.items()]
    return [*table_text(scores, width), "", *table_text(costs, width), *ends]
