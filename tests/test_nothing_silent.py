"""Nothing silent: warnings, pauses, outputs that are their inputs, and how to go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from store_world import QuietConsole, kind, manifest, stage, write_number

from r1pipe.cli.views import record_text
from r1pipe.errors import Paused, StageError
from r1pipe.manifest import Manifest
from r1pipe.pipeline.run import run
from r1pipe.store.store import Store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def build(root: Path, made: Manifest, console: QuietConsole | None = None) -> list[str]:
    return run(made, Store(root), console or QuietConsole()).built


def test_a_users_mistake_is_not_answered_with_the_same_command_only(root: Path) -> None:
    def refuse(context: Any, params: Any, run: Any, inputs: Any) -> None:
        raise StageError("the rows have no prompt")

    with pytest.raises(StageError, match="no prompt") as caught:
        build(root, manifest(stage("only", kind(refuse))))
    (note,) = caught.value.__notes__
    assert note.startswith("only: what it has done is kept; when that is put right, go on with: ")


def test_a_stage_that_pauses_itself_ends_with_a_code_of_its_own_and_goes_on(root: Path) -> None:
    def pause(context: Any, params: Any, run: Any, inputs: Any) -> None:
        units = context.journal("rows")
        if not units.done():
            units.append("one", [{"row": 1}])
            raise Paused("nothing moves")
        write_number(context, params, run, inputs)

    console = QuietConsole()
    with pytest.raises(Paused, match="nothing moves") as caught:
        build(root, manifest(stage("only", kind(pause))), console=console)
    assert caught.value.exit_code == 4
    assert ("finished", "only", "paused") in console.events
    assert "the attempt is kept; go on with: r1pipe run" in caught.value.__notes__[0]
    assert build(root, manifest(stage("only", kind(pause)))) == ["only"]


def test_a_warning_is_said_at_once_and_kept_once_with_its_control_characters_written_out(
    root: Path,
) -> None:
    def warn(context: Any, params: Any, run: Any, inputs: Any) -> None:
        for text in ("flat", "an example: \x1b[2J", "flat"):
            context.warn(text)
        write_number(context, params, run, inputs)

    console = QuietConsole()
    build(root, manifest(stage("only", kind(warn))), console=console)
    said = [event[1] for event in console.events if event[0] == "message"]
    example = "an example: \\x1b[2J"
    assert said == [f"only: warning: {text}" for text in ("flat", example, "flat")]
    (record,) = Store(root).records()
    assert record.facts["warnings"] == [example, "flat"]
    text = record_text(record, Store(root))
    assert f"warnings\n  {example}\n  flat" in text
    assert "\x1b" not in text


def test_an_output_that_is_its_input_is_said_in_the_run_and_in_show(root: Path) -> None:
    def keep(context: Any, params: Any, run: Any, inputs: Any) -> None:
        source = inputs.path("a") / "number.json"
        (context.output("data") / "number.json").write_bytes(source.read_bytes())

    console = QuietConsole()
    stages = [stage("base", kind()), stage("rl", kind(keep), {"a": "base"})]
    build(root, manifest(*stages), console=console)
    said = [event[1] for event in console.events if event[0] == "message"]
    text = "its output data is its input a, byte for byte: nothing was changed"
    assert said == [f"rl: warning: {text}"]
    records = {record.stage_name: record for record in Store(root).records()}
    assert f"warnings\n  {text}" in record_text(records["rl"], Store(root))
    assert "warnings" not in record_text(records["base"], Store(root))
