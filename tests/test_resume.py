"""Kill a run at every numbered step: nothing partial is seen, and the rest is picked up."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from killing import KILLED, call, running, wait, wait_until
from store_world import (
    STEPS,
    QuietConsole,
    assert_whole,
    build,
    ids,
    kind,
    manifest,
    sample,
    stage,
    train,
    two_stages,
)

from r1pipe.errors import Interrupted
from r1pipe.pipeline.planning import plan
from r1pipe.pipeline.run import run
from r1pipe.store import faults
from r1pipe.store.store import Store

TRAIN_POINTS = [point for point in faults.POINTS if not point.startswith("journal.")]
SAMPLE_POINTS = [point for point in faults.POINTS if not point.startswith("checkpoint.")]


@pytest.mark.parametrize(
    ("function", "point"),
    [(train, point) for point in TRAIN_POINTS] + [(sample, point) for point in SAMPLE_POINTS],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_kill_at_any_point_loses_at_most_one_step(
    tmp_path: Path, function: Callable[..., None], point: str
) -> None:
    made = two_stages(function, tmp_path / "steps")
    build(tmp_path / "whole", made)
    (tmp_path / "steps").unlink()
    root = tmp_path / "store"
    first = "checkpoint.rename@3" if function is train else "journal.append@3"
    assert call(lambda: build(root, made), first) == KILLED
    assert call(lambda: build(root, made), point) == KILLED, f"{point} was not passed"
    assert_whole(root, made)
    build(root, made)
    assert ids(root) == ids(tmp_path / "whole")
    assert_whole(root, made)
    # each of the two kills may cost the step that it interrupted and no other
    assert (tmp_path / "steps").read_text().count("x") <= STEPS + 2
    if point not in ("publish.record", "publish.latest"):  # a hit by then; `gc` clears up
        assert not list((root / "attempts").iterdir())


def test_from_the_prepared_record_on_the_stage_does_not_run_again(tmp_path: Path) -> None:
    made = two_stages(train, tmp_path / "steps")
    for point in faults.POINTS[faults.POINTS.index("publish.prepare") :]:
        root = tmp_path / point
        assert call(lambda root=root: build(root, made), point) == KILLED  # type: ignore[misc]
        (tmp_path / "steps").write_text("")
        console = QuietConsole()
        run(made, Store(root), console)
        assert console.started() == ["after"]
        assert (tmp_path / "steps").read_text() == ""


def test_a_plan_says_what_an_attempt_goes_on_from(tmp_path: Path) -> None:
    made = two_stages(train, tmp_path / "steps")
    assert call(lambda: build(tmp_path / "store", made), "checkpoint.rename@3") == KILLED
    planned = plan(made, Store(tmp_path / "store")).stages[0]
    assert (planned.status, planned.reason) == ("resume", "goes on from step 3")


def test_another_key_does_not_resume_from_this_attempt(tmp_path: Path) -> None:
    made = two_stages(train, tmp_path / "steps")
    assert call(lambda: build(tmp_path / "store", made), "checkpoint.rename@3") == KILLED
    other = manifest(stage("work", made.stages["work"].kind, steps=STEPS, number=2))
    assert plan(other, Store(tmp_path / "store")).stages[0].status == "run"


def test_metrics_of_a_resumed_stage_have_each_step_once(tmp_path: Path) -> None:
    made = two_stages(train, tmp_path / "steps")
    root = tmp_path / "store"
    # killed after step 4 was logged and before it was saved, so step 4 is logged twice
    assert call(lambda: build(root, made), "checkpoint.write@4") == KILLED
    build(root, made)
    store = Store(root)
    rows = store.metrics(store.resolve("work"))
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))


def test_a_damaged_newest_checkpoint_costs_one_interval(tmp_path: Path) -> None:
    made = two_stages(train, tmp_path / "steps")
    root = tmp_path / "store"
    build(tmp_path / "whole", made)
    assert call(lambda: build(root, made), "checkpoint.rename@5") == KILLED
    (newest,) = root.glob("attempts/*/work-*/checkpoints/step-0000000005/state.json")
    newest.write_text("1")
    (tmp_path / "steps").write_text("")
    build(root, made)
    assert (tmp_path / "steps").read_text().count("x") == STEPS - 4
    assert ids(root) == ids(tmp_path / "whole")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_where_nothing_is_lost(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    def slow(context: Any, params: Any, run: Any, inputs: Any) -> None:
        done = context.checkpoints.latest()
        for step in range(1 + (done[0] if done else 0), 1000):
            (tmp_path / "alive").touch()
            time.sleep(0.01)
            if context.checkpoint_due():
                with context.checkpoints.saving(step) as folder:
                    (folder / "state").write_text(str(step))
            context.stop_if_asked()

    made = manifest(stage("slow", kind(slow)))
    with running(lambda: build(tmp_path / "store", made)) as pid:
        wait_until((tmp_path / "alive").exists)
        os.kill(pid, number)
        assert wait(pid) == code
    planned = plan(made, Store(tmp_path / "store")).stages[0]
    assert planned.status == "resume"
    assert planned.reason.startswith("goes on from step ")


def test_an_interruption_says_how_to_go_on(tmp_path: Path) -> None:
    def stop(context: Any, params: Any, run: Any, inputs: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        context.stop_if_asked()

    message = "stopped by SIGTERM; .* go on with: r1pipe run tiny.yaml --profile laptop"
    with pytest.raises(Interrupted, match=message):
        build(tmp_path / "store", manifest(stage("only", kind(stop))))


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    def deaf(context: Any, params: Any, run: Any, inputs: Any) -> None:
        while True:
            (tmp_path / "alive").touch()
            time.sleep(0.01)

    made = manifest(stage("deaf", kind(deaf)))
    with running(lambda: build(tmp_path / "store", made)) as pid:
        wait_until((tmp_path / "alive").exists)
        os.kill(pid, signal.SIGINT)
        time.sleep(0.1)
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        os.kill(pid, signal.SIGINT)
        assert wait(pid) == 130


def test_a_child_that_a_stage_forked_dies_of_the_signals_it_gets(tmp_path: Path) -> None:
    def fork(context: Any, params: Any, run: Any, inputs: Any) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            pid = os.fork()
            if pid == 0:
                (tmp_path / number.name).touch()
                time.sleep(20)
                os._exit(0)
            wait_until((tmp_path / number.name).exists)
            os.kill(pid, number)
            context.note(**{number.name: wait(pid)})
        (context.output("data") / "number.json").write_text("1")

    made = manifest(stage("fork", kind(fork)))
    build(tmp_path / "store", made)
    facts = Store(tmp_path / "store").resolve("fork").facts
    assert facts == {"SIGTERM": -signal.SIGTERM, "SIGINT": -signal.SIGINT}


def test_a_stop_between_stages_starts_no_other(tmp_path: Path) -> None:
    def ask(context: Any, params: Any, run: Any, inputs: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        (context.output("data") / "number.json").write_text("1")

    console = QuietConsole()
    made = manifest(stage("one", kind(ask)), stage("two", inputs={"a": "one"}))
    with pytest.raises(Interrupted, match="SIGTERM"):
        run(made, Store(tmp_path / "store"), console)
    assert console.started() == ["one"]


def test_seconds_count_all_attempts(tmp_path: Path) -> None:
    def slow(context: Any, params: Any, run: Any, inputs: Any) -> None:
        is_first = not (tmp_path / "once").exists()
        (tmp_path / "once").touch()
        time.sleep(0.2)
        (context.output("data") / "number.json").write_text(json.dumps(1))
        if is_first:
            raise Interrupted("stop", 75)

    made = manifest(stage("slow", kind(slow)))
    with pytest.raises(Interrupted, match="stop"):
        build(tmp_path / "store", made)
    build(tmp_path / "store", made)
    assert Store(tmp_path / "store").resolve("slow").seconds >= 0.4
