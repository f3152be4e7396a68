"""Trackers are sent the numbers of the metrics log, each step once, under one id per attempt."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import fake_trackers
import pytest
from fake_trackers import NAMES, Seen
from store_world import QuietConsole, Run, kind, manifest, stage
from tiny import MANIFEST

from r1pipe.errors import ManifestError, StageError
from r1pipe.manifest import Manifest, load_manifest
from r1pipe.pipeline.planning import plan
from r1pipe.pipeline.run import run
from r1pipe.store.store import Store
from r1pipe.tracking import table
from r1pipe.tracking.table import TrackerRun

STEPS = 6


class TrackedRun(Run):
    """Sends to all trackers."""

    track: tuple[table.TrackerName, ...] = get_args(table.TrackerName)
    """Which."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    for name in ("WANDB_MODE", "MLFLOW_TRACKING_URI", "TRACKIO_DIR", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "")  # so that what an adapter sets is taken back
        os.environ.pop(name)
    return fake_trackers.install(monkeypatch)


def training(context: Any, params: Any, run: Any, inputs: Any, fails: list[int]) -> None:
    """Log steps, with a checkpoint after step 2 and 4; fail once at each step of `fails`."""
    found = context.checkpoints.latest()
    for step in range(1 if found is None else found[0] + 1, STEPS + 1):
        if step in fails:
            fails.remove(step)
            raise StageError("out of memory")
        context.log(step, STEPS, loss=1 / step, kl=0.5)
        if step % 2 == 0:
            with context.checkpoints.saving(step) as folder:
                (folder / "state").write_text("")
    (context.output("data") / "number.json").write_text("1")


def tracked(*fails: int, run_model: type[Run] = TrackedRun) -> Manifest:
    function = partial(training, fails=list(fails))
    made = kind(function, name="train")._replace(run_model=run_model)
    return manifest(stage("zero", made))


def build(store: Path, made: Manifest, **options: Any) -> QuietConsole:
    console = QuietConsole()
    run(made, Store(store), console, **options)
    return console


def messages(console: QuietConsole) -> str:
    return "\n".join(event[1] for event in console.events if event[0] == "message")


def test_every_tracker_is_sent_each_step_with_its_values(seen: Seen, tmp_path: Path) -> None:
    said = messages(build(tmp_path / "store", tracked()))
    assert [name for name, *_ in seen.opened] == list(NAMES)
    ((key,),) = [[path.stem for path in (tmp_path / "store" / "records").iterdir()]]
    (run_id,) = {run_id for _, _, run_id in seen.opened}
    assert run_id.startswith(f"zero-{key[:8]}-")
    assert {project for _, project, _ in seen.opened} == {"tiny"}
    for name in ("trackio", "wandb"):
        rows = [(step, values) for tracker, _, step, values in seen.logged if tracker == name]
        assert rows == [(step, {"loss": 1 / step, "kl": 0.5}) for step in range(1, STEPS + 1)]
    assert seen.steps("mlflow") == seen.steps("tensorboard") == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert seen.closed == [
        ("trackio", None),
        ("tensorboard", None),
        ("wandb", 0),
        ("mlflow", "FINISHED"),
    ]
    assert seen.config["key"] == key
    assert f"zero: tracked by wandb as tiny/{run_id}" in said


def test_a_resumed_attempt_goes_on_under_its_id_and_sends_no_step_twice(
    seen: Seen, tmp_path: Path
) -> None:
    made = tracked(4)
    with pytest.raises(StageError, match="out of memory"):
        build(tmp_path / "store", made)
    assert seen.closed[-2:] == [("wandb", 1), ("mlflow", "KILLED")]
    build(tmp_path / "store", made)  # from the checkpoint of step 2: step 3 comes again
    assert len({run_id for _, _, run_id in seen.opened}) == 1
    assert len(seen.opened) == 2 * len(NAMES)
    assert seen.steps("wandb") == [1, 2, 3, 4, 5, 6]


def test_a_rebuild_is_a_run_of_its_own(seen: Seen, tmp_path: Path) -> None:
    build(tmp_path / "store", tracked())
    build(tmp_path / "store", tracked(), rebuild=["zero"])
    assert len({run_id for _, _, run_id in seen.opened}) == 2
    assert seen.steps("wandb") == [1, 2, 3, 4, 5, 6] * 2


def test_a_tracker_that_fails_is_told_of_and_the_stage_ends_well(
    seen: Seen, tmp_path: Path
) -> None:
    seen.fails_at = 3
    said = messages(build(tmp_path / "store", tracked()))
    assert seen.steps("wandb") == [1, 2]
    told = (
        "zero: warning: the tracker wandb failed and is left: ConnectionError: the network is down"
    )
    assert said.count(told) == 1
    (record,) = Store(tmp_path / "store").records()
    assert [row["step"] for row in Store(tmp_path / "store").metrics(record)] == [1, 2, 3, 4, 5, 6]


def test_what_a_tracker_prints_is_on_stderr_and_without_colours_where_that_is_no_terminal(
    seen: Seen,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    init = sys.modules["trackio"].init

    def loud_init(**options: Any) -> Any:
        print("\x1b[1m\x1b[38;5;208mtrackio show\x1b[0m")  # noqa: T201 - as Trackio 0.43 does
        return init(**options)

    monkeypatch.setattr(sys.modules["trackio"], "init", loud_init)
    build(tmp_path / "store", tracked())
    assert capsys.readouterr() == ("", "trackio show\n")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    build(tmp_path / "terminal", tracked())
    assert "\x1b[38;5;208mtrackio show" in capsys.readouterr().err
    monkeypatch.setenv("NO_COLOR", "1")
    build(tmp_path / "grey", tracked())
    assert capsys.readouterr().err == "trackio show\n"


def test_nothing_is_sent_over_a_network_unless_asked_for(seen: Seen, tmp_path: Path) -> None:
    build(tmp_path / "store", tracked())
    assert os.environ["WANDB_MODE"] == "offline"
    assert os.environ["TRACKIO_DIR"] == str(tmp_path / "store" / "tracked" / "trackio")
    os.environ["WANDB_MODE"] = "online"
    build(tmp_path / "other", tracked())
    assert os.environ["WANDB_MODE"] == "online"


@pytest.mark.parametrize("name", ["base", "cold-start-sft", "zero", "helpful-rm"])
def test_trackers_are_not_in_keys(seen: Seen, tmp_path: Path, name: str) -> None:
    def key(*overrides: str) -> str:
        made = load_manifest(MANIFEST, profile="smoke", overrides=overrides)
        planned = {each.name: each for each in plan(made, Store(tmp_path / "store")).stages}
        chosen = made.stages[name]
        assert getattr(chosen.run, "track", ()) == (("wandb",) if overrides else ())
        return json.dumps([planned[name].key, chosen.params.model_dump(mode="json")])

    assert key(f"stages.{name}.run.track=[wandb]") == key()


def test_a_tracker_that_is_not_installed_is_refused_in_the_manifest_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(table, "find_spec", lambda name: None)
    message = (
        r"zero: run.track: wandb, mlflow are not installed; pip install wandb mlflow, or leave"
    )
    with pytest.raises(ManifestError, match=message):
        load_manifest(MANIFEST, overrides=["stages.zero.run.track=[wandb, mlflow]"])


def test_a_tracker_that_does_not_exist_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="'wandb'"):
        load_manifest(MANIFEST, overrides=["stages.zero.run.track=[wanbd]"])


def real(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Skip a test where the package is not installed."""
    is_there = importlib.util.find_spec(name) is not None
    return pytest.mark.skipif(not is_there, reason=f"{name} is not installed")


@real("tensorboard")
def test_tensorboard_reads_the_curves_of_a_resumed_run(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from r1pipe.tracking.tensorboard_run import open_run

    asked = TrackerRun("r1", "zero-1", tmp_path, {"lr": 1.0})
    for steps in ((1, 2), (3,)):
        writer = open_run(asked)
        for step in steps:
            writer.log(step, {"loss": step / 2})
        writer.close(is_done=True)
    found = EventAccumulator(str(tmp_path / "r1" / "zero-1")).Reload()
    assert [(each.step, each.value) for each in found.Scalars("loss")] == [
        (1, 0.5),
        (2, 1.0),
        (3, 1.5),
    ]
