"""A disk that refuses, orphans that keep writing, several runs at once."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from killing import KILLED, call, start, wait, wait_until
from store_world import (
    QuietConsole,
    assert_whole,
    build,
    halve,
    ids,
    kind,
    manifest,
    stage,
    train,
    two_stages,
)

from r1pipe.errors import StoreError
from r1pipe.manifest import Manifest
from r1pipe.pipeline.planning import plan
from r1pipe.pipeline.run import run
from r1pipe.store import disk, faults
from r1pipe.store.store import Store


@pytest.mark.parametrize("point", [p for p in faults.POINTS if p.startswith("publish.")])
@pytest.mark.parametrize("error", ["ENOSPC", "EROFS"])
def test_a_refusing_disk_is_a_store_error_and_the_attempt_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, error: str
) -> None:
    made = two_stages(train, tmp_path / "steps")
    root = tmp_path / "store"
    monkeypatch.setenv("R1PIPE_FAULT", f"{point}:{error}")
    monkeypatch.setattr(faults, "_passed", Counter())
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
        raise PermissionError(13, "Permission denied", "/srv/secret")

    with pytest.raises(PermissionError, match="/srv/secret"):
        build(tmp_path / "store", manifest(stage("only", kind(forbidden))))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of one mebibyte, where the tests may."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs root")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.mark.parametrize("where", ["output", "checkpoint", "journal"])
def test_a_really_full_disk_ends_with_8_and_goes_on_when_there_is_space(
    small_disk: Path, where: str
) -> None:
    ballast = small_disk / "ballast"

    def fill(context: Any, params: Any, run: Any, inputs: Any) -> None:
        journal = context.journal("rows")
        if "first" not in journal.done():
            journal.append("first", [{"row": 1}])
            with context.checkpoints.saving(1) as folder:
                (folder / "state").write_text("1")
        found = context.checkpoints.latest()
        assert found is not None
        block = b"x" * 300_000
        if where == "journal":
            for unit in range(3):
                if str(unit) not in journal.done():
                    journal.append(str(unit), [{"text": block.decode()}])
        elif where == "checkpoint":
            with context.checkpoints.saving(2) as folder:
                (folder / "state").write_bytes(block)
        else:
            (context.output("data") / "block").write_bytes(block)
        (context.output("data") / "number.json").write_text(str(sum(1 for _ in journal.rows())))

    made = manifest(stage("fill", kind(fill)))
    (small_disk / "store").mkdir()
    ballast.write_bytes(b"x" * 700_000)
    with pytest.raises(StoreError, match="No space left on device") as caught:
        build(small_disk / "store", made)
    assert caught.value.exit_code == 8
    assert Store(small_disk / "store").records() == []
    assert plan(made, Store(small_disk / "store")).stages[0].status == "resume"
    ballast.unlink()
    if where == "journal":
        subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    assert build(small_disk / "store", made) == ["fill"]


def test_a_store_that_is_only_readable_gives_hits_and_refuses_work(small_disk: Path) -> None:
    root = small_disk / "store"
    build(root, manifest(stage("only", number=3)))
    build(root, manifest(stage("only", number=4)))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert build(root, manifest(stage("only", number=4))) == []
    assert build(root, manifest(stage("only", number=3))) == []
    assert plan(manifest(stage("only", number=5)), Store(root)).stages[0].status == "run"
    with pytest.raises(StoreError, match="Read-only file system") as caught:
        build(root, manifest(stage("only", number=5)))
    assert caught.value.exit_code == 8


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
    made = two_stages(train, tmp_path / "steps")
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


def test_an_input_that_vanishes_after_the_plan_is_built_again(tmp_path: Path) -> None:
    root = tmp_path / "store"
    build(root, manifest(stage("first", number=6)))
    made = manifest(stage("first", number=6), stage("half", kind(halve), {"a": "first"}))
    console, store = QuietConsole(), Store(root)

    def lose(plan: Any) -> None:
        assert [one.status for one in plan.stages] == ["hit", "run"]
        disk.remove_tree(store.artifact_dir(store.resolve("first").artifact_id))

    console.plan = lose  # type: ignore[method-assign]
    assert run(made, store, console).built == ["first", "half"]


def test_a_reader_never_sees_half_an_artifact(tmp_path: Path) -> None:
    root, count = tmp_path / "store", 400

    def many(context: Any, params: Any, run: Any, inputs: Any) -> None:
        for index in range(count):
            (context.output("data") / str(index)).write_text("x")

    pid = start(lambda: build(root, manifest(stage("many", kind(many)))))
    seen = set()
    while not list((root / "records").glob("[!.]*.json")):
        for path in (root / "objects").glob("*"):
            seen.add(len(disk.walk(path)[0]))
    assert wait(pid) == 0
    assert seen <= {count + 1}, "its files and the seal"
    assert_whole(root, manifest())
