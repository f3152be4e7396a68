"""Kill a run at every numbered step: nothing partial is seen, and the rest is picked up."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from killing import KILLED, call, running, start, wait, wait_until
from store_world import QuietConsole, kind, manifest, sample, stage, train

from r1pipe import faults, signatures
from r1pipe.errors import Interrupted, StoreError
from r1pipe.manifest import Manifest
from r1pipe.pipeline import plan, run
from r1pipe.store import Store

STEPS = 8
TRAIN_POINTS = [point for point in faults.POINTS if not point.startswith("journal.")]
SAMPLE_POINTS = [point for point in faults.POINTS if not point.startswith("checkpoint.")]


def counted(function: Callable[..., None], path: Path) -> Callable[..., None]:
    """Return a stage that writes down each step that it logs, over all its attempts."""

    def run_counted(context: Any, params: Any, run: Any, inputs: Any) -> None:
        class Counting:
            def __getattr__(self, name: str) -> Any:
                return getattr(context, name)

            def stop_if_asked(self) -> None:
                with path.open("a") as file:
                    file.write("x")
                context.stop_if_asked()

        function(Counting(), params, run, inputs)

    return run_counted


def world(function: Callable[..., None], steps_path: Path) -> Manifest:
    counting = kind(counted(function, steps_path), name=function.__name__)
    return manifest(stage("work", counting, steps=STEPS), stage("after", inputs={"a": "work"}))


def build(root: Path, made: Manifest) -> list[str]:
    return run(made, Store(root), QuietConsole()).built


def ids(root: Path) -> Mapping[str, str]:
    return {record.stage_name: record.artifact_id for record in Store(root).records()}


def assert_whole(root: Path, made: Manifest) -> None:
    """Assert that all that a reader can see is whole, by digest."""
    store = Store(root)
    for path in store.objects.iterdir():
        signatures.verify(path, path.name, Path("/dev/null/none"), full=True)
    for record in store.records():
        assert store.is_intact(record)


@pytest.mark.parametrize(
    ("function", "point"),
    [(train, point) for point in TRAIN_POINTS] + [(sample, point) for point in SAMPLE_POINTS],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_kill_at_any_point_loses_at_most_one_step(
    tmp_path: Path, function: Callable[..., None], point: str
) -> None:
    made = world(function, tmp_path / "steps")
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
    made = world(train, tmp_path / "steps")
    for point in faults.POINTS[faults.POINTS.index("publish.prepare") :]:
        root = tmp_path / point
        assert call(lambda root=root: build(root, made), point) == KILLED  # type: ignore[misc]
        (tmp_path / "steps").write_text("")
        console = QuietConsole()
        run(made, Store(root), console)
        assert console.started() == ["after"]
        assert (tmp_path / "steps").read_text() == ""


def test_a_plan_says_what_an_attempt_goes_on_from(tmp_path: Path) -> None:
    made = world(train, tmp_path / "steps")
    assert call(lambda: build(tmp_path / "store", made), "checkpoint.rename@3") == KILLED
    planned = plan(made, Store(tmp_path / "store")).stages[0]
    assert (planned.status, planned.reason) == ("resume", "goes on from step 3")


def test_another_key_does_not_resume_from_this_attempt(tmp_path: Path) -> None:
    made = world(train, tmp_path / "steps")
    assert call(lambda: build(tmp_path / "store", made), "checkpoint.rename@3") == KILLED
    other = manifest(stage("work", made.stages["work"].kind, steps=STEPS, number=2))
    assert plan(other, Store(tmp_path / "store")).stages[0].status == "run"


def test_metrics_of_a_resumed_stage_have_each_step_once(tmp_path: Path) -> None:
    made = world(train, tmp_path / "steps")
    root = tmp_path / "store"
    # killed after step 4 was logged and before it was saved, so step 4 is logged twice
    assert call(lambda: build(root, made), "checkpoint.write@4") == KILLED
    build(root, made)
    store = Store(root)
    rows = store.metrics(store.resolve("work"))
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))


def test_a_damaged_newest_checkpoint_costs_one_interval(tmp_path: Path) -> None:
    made = world(train, tmp_path / "steps")
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


def test_a_stop_between_stages_starts_no_other(tmp_path: Path) -> None:
    def ask(context: Any, params: Any, run: Any, inputs: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        (context.output("data") / "number.json").write_text("1")

    console = QuietConsole()
    made = manifest(stage("one", kind(ask)), stage("two", inputs={"a": "one"}))
    with pytest.raises(Interrupted, match="SIGTERM"):
        run(made, Store(tmp_path / "store"), console)
    assert console.started() == ["one"]


@pytest.mark.parametrize("point", [p for p in faults.POINTS if p.startswith("publish.")])
@pytest.mark.parametrize("error", ["ENOSPC", "EROFS"])
def test_a_refusing_disk_is_a_store_error_and_the_attempt_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, error: str
) -> None:
    made = world(train, tmp_path / "steps")
    root = tmp_path / "store"
    monkeypatch.setenv("R1PIPE_FAULT", f"{point}:{error}")
    monkeypatch.setattr(faults, "_passed", faults.Counter())
    with pytest.raises(StoreError, match="the attempt is kept") as caught:
        build(root, made)
    assert caught.value.exit_code == 8
    monkeypatch.delenv("R1PIPE_FAULT")
    assert_whole(root, made)
    (tmp_path / "steps").write_text("")
    build(root, made)
    assert (tmp_path / "steps").read_text().count("x") <= 1
    assert sorted(ids(root)) == ["after", "work"]


def test_a_full_disk_inside_a_stage_is_a_store_error(tmp_path: Path) -> None:
    def fill(context: Any, params: Any, run: Any, inputs: Any) -> None:
        with Path("/dev/full").open("w") as file:
            file.write("x")

    with pytest.raises(StoreError, match="No space left on device"):
        build(tmp_path / "store", manifest(stage("only", kind(fill))))


def test_a_file_that_a_stage_may_not_read_is_not_blamed_on_the_store(tmp_path: Path) -> None:
    def forbidden(context: Any, params: Any, run: Any, inputs: Any) -> None:
        raise PermissionError(13, "Permission denied", "/root/secret")

    with pytest.raises(PermissionError, match="/root/secret"):
        build(tmp_path / "store", manifest(stage("only", kind(forbidden))))


def orphan_stage(tmp_path: Path, *, die: bool) -> Callable[..., None]:
    """Return a stage whose first attempt leaves a child behind that keeps writing."""

    def leave_orphan(context: Any, params: Any, run: Any, inputs: Any) -> None:
        data = context.output("data")
        file = (data / "number.json").open("w+")
        file.write("41")
        file.flush()
        if not (tmp_path / "pid").exists():
            with context.checkpoints.saving(1) as folder:
                state = (folder / "state").open("w+")
                state.write("ok")
                state.flush()
            pid = os.fork()
            if pid == 0:
                keep_writing([file, state], data, tmp_path / "orphan")
            (tmp_path / "pid").write_text(str(pid))
            wait_until((tmp_path / "orphan").exists)
            if die:
                os.kill(os.getpid(), signal.SIGKILL)
        found = context.checkpoints.latest()
        context.note(state=(found[1] / "state").read_text() if found and die else "")

    return leave_orphan


def keep_writing(files: list[Any], folder: Path, flag: Path) -> None:
    os.chdir(folder)
    for turn in range(3000):
        for file in files:
            file.seek(0)
            file.write("99")
            file.flush()
        for path in (folder / "added", Path("relative")):
            with suppress(OSError):
                path.write_text("99")
        if turn == 3:
            flag.touch()
        time.sleep(0.001)
    os._exit(0)


@pytest.mark.parametrize("die", [True, False], ids=["parent died", "parent lives"])
def test_an_orphan_alters_neither_artifact_nor_later_attempt(tmp_path: Path, die: bool) -> None:
    made = manifest(stage("only", kind(orphan_stage(tmp_path, die=die))))
    root = tmp_path / "store"
    if die:
        assert call(lambda: build(root, made)) == KILLED
    try:
        # with a living parent the file already holds what the child wrote while it was sealed
        build(root, made)
        time.sleep(0.2)
        assert_whole(root, made)
        store = Store(root)
        record = store.resolve("only")
        if die:
            text = (store.output_dir(record, "data") / "number.json").read_text()
            assert text == "41"
            assert record.facts["state"] in ("", "ok")
        os.kill(int((tmp_path / "pid").read_text()), 0)
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_two_runs_of_one_key_build_once(tmp_path: Path) -> None:
    root = tmp_path / "store"

    def slow(context: Any, params: Any, run: Any, inputs: Any) -> None:
        with (tmp_path / "built").open("a") as file:
            file.write("x")
        time.sleep(0.3)
        (context.output("data") / "number.json").write_text("1")

    made = manifest(stage("slow", kind(slow)), stage("after", inputs={"a": "slow"}))
    pids = [start(lambda: build(root, made)) for _ in range(8)]
    assert [wait(pid) for pid in pids] == [0] * 8
    assert (tmp_path / "built").read_text() == "x"
    assert sorted(ids(root)) == ["after", "slow"]


def test_two_keys_are_built_side_by_side(tmp_path: Path) -> None:
    def meet(context: Any, params: Any, run: Any, inputs: Any) -> None:
        (tmp_path / f"here{params.number}").touch()
        wait_until((tmp_path / f"here{3 - params.number}").exists)
        (context.output("data") / "number.json").write_text("1")

    def made(number: int) -> Manifest:
        return manifest(stage("meet", kind(meet), number=number))

    pids = [start(lambda n=n: build(tmp_path / "store", made(n))) for n in (1, 2)]  # type: ignore[misc]
    assert [wait(pid) for pid in pids] == [0, 0]
    # equal bytes under two keys are one artifact
    assert len(list((tmp_path / "store" / "objects").iterdir())) == 1
    assert len(Store(tmp_path / "store").records()) == 2


def test_eight_processes_that_are_killed_at_random_end_in_one_result(tmp_path: Path) -> None:
    import random

    root = tmp_path / "store"
    made = world(train, tmp_path / "steps")
    build(tmp_path / "whole", made)
    rng = random.Random(0)
    pids = [start(lambda: build(root, made)) for _ in range(8)]
    for pid in pids[:6]:
        time.sleep(rng.uniform(0, 0.15))
        os.kill(pid, signal.SIGKILL)
    ends = [wait(pid) for pid in pids]
    assert ends[6:] == [0, 0]
    assert ids(root) == ids(tmp_path / "whole")
    assert_whole(root, made)


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
