"""Nothing silent: warnings, pauses, outputs that are their inputs, and how to go on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from store_world import QuietConsole, kind, manifest, stage, write_number

from r1pipe.cli.attempt_view import attempt_json, attempt_text
from r1pipe.cli.views import record_text
from r1pipe.errors import ArtifactError, Paused, StageError
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


def test_show_says_how_much_of_the_time_sampling_and_training_ran_together(root: Path) -> None:
    def ahead(context: Any, params: Any, run: Any, inputs: Any) -> None:
        names = "rollout", "sampled_from", "sampled_to", "trained_from", "trained_to"
        rows = [(0, 0.0, 1.0, 1.0, 3.0), (1, 1.0, 2.0, 3.0, 4.0)]
        context.note(timeline=[dict(zip(names, row, strict=True)) for row in rows])
        write_number(context, params, run, inputs)

    build(root, manifest(stage("rl", kind(ahead)), stage("base", kind())))
    texts = {each.stage_name: record_text(each, Store(root)) for each in Store(root).records()}
    assert "overlap      both sampling and training 25 % of the time" in texts["rl"]
    assert "overlap" not in texts["base"]


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


def test_what_is_brought_in_as_it_is_warns_of_nothing(root: Path, tmp_path: Path) -> None:
    def bring(context: Any, params: Any, run: Any, inputs: Any) -> None:
        found = inputs.path("a") / "number.json"
        (context.output("data") / "number.json").write_bytes(found.read_bytes())

    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "number.json").write_text("1")
    console = QuietConsole()
    made = manifest(stage("base", kind(bring), {"a": "@own"}), sources={"own": outside})
    build(root, made, console=console)
    (record,) = Store(root).records()
    assert record.outputs["data"] == record.inputs["a"]["id"], "the very bytes"
    assert [event for event in console.events if event[0] == "message"] == []


# ---- attempts ------------------------------------------------------------------------------------


def failing(context: Any, params: Any, run: Any, inputs: Any) -> None:
    context.journal("rows").append("one", [{"row": 1}])
    context.log(1, 2, loss=0.5)
    context.sample(completion="\x1b[2J")
    context.warn("nothing is kept")
    raise StageError("none was kept")


def test_a_failed_stage_shows_its_warnings_metrics_and_samples(root: Path) -> None:
    made = manifest(stage("only", kind(failing)))
    with pytest.raises(StageError, match="none was kept"):
        build(root, made)
    store = Store(root)
    (attempt,) = store.attempts("only")
    text = attempt_text(store, attempt)
    assert "not finished, and not being built" in text
    assert "bytes of rows" in text
    assert "warnings\n  nothing is kept" in text
    assert "loss  0.5" in text
    assert "completion: \\x1b[2J" in text
    assert "\x1b" not in text
    document = attempt_json(store, attempt)
    assert (document["stage_name"], document["samples"]) == ("only", [{"completion": "\x1b[2J"}])
    assert document["metrics"] == [{"step": 1, "loss": 0.5}]
    assert store.attempts("other") == []


def test_a_finished_stage_has_no_attempt(root: Path) -> None:
    build(root, manifest(stage("only", kind())))
    assert Store(root).attempts("only") == []


def test_show_takes_the_attempt_where_there_is_no_artifact(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("R1PIPE_STORE", str(root))
    with pytest.raises(StageError, match="none was kept"):
        build(root, manifest(stage("only", kind(failing))))
    show("only")
    assert "not finished, and not being built" in capsys.readouterr().out
    build(root, manifest(stage("only", kind(name="failing"), number=2)))
    show("only")
    out = capsys.readouterr().out
    assert "artifact" in out
    assert "an attempt at it is not finished: r1pipe show only --attempt" in out
    with pytest.raises(ArtifactError, match="no attempt at a stage 'x' is unfinished"):
        show("x", attempt=True)


def show(name: str, attempt: bool = False) -> None:
    from r1pipe.cli.read_commands import show as command

    command(name, False, None, None, attempt, Path(os.environ["R1PIPE_STORE"]), False)
