"""File systems that refuse: a rename across layers, a full disk, one that is only readable."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from command import Run
from fake_project import make_project
from killing import KILLED, call
from store_world import Params, assert_whole, build, chain, ids, kind, manifest, stage, train

from r1pipe.pipeline.planning import plan
from r1pipe.stage import Inputs
from r1pipe.store import disk
from r1pipe.store.gc import collect_garbage, restore
from r1pipe.store.store import Store

# Renames across layers (overlayfs without redirect_dir) ----------------------------------


@pytest.fixture
def layered(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Give a function that makes what is below a folder a container's lower layer: its folders
    cannot be renamed."""
    known: dict[Path, int] = {}
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self in known and self.stat().st_ino == known[self]:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(self))
        return rename(self, target)

    def lower(root: Path) -> None:
        known.update({path: path.stat().st_ino for path in root.rglob("*") if path.is_dir()})

    monkeypatch.setattr(Path, "rename", refuse)
    return lower


@pytest.mark.parametrize("point", ["checkpoint.rename@3", "publish.prepare", "publish.rename"])
def test_an_attempt_of_a_lower_layer_goes_on(
    tmp_path: Path, layered: Callable[[Path], None], point: str
) -> None:
    made, root = manifest(stage("work", kind(train))), tmp_path / "store"
    build(tmp_path / "whole", made)
    assert call(lambda: build(root, made), point) == KILLED
    layered(root)
    assert build(root, made) == ["work"]
    assert ids(root) == ids(tmp_path / "whole")
    assert_whole(root, made)
    assert list((root / "attempts").iterdir()) == []


def test_garbage_of_a_lower_layer_is_moved_and_restored(
    tmp_path: Path, layered: Callable[[Path], None]
) -> None:
    root = tmp_path / "store"
    build(root, chain(6))
    disk.remove_tree(root / "runs")
    layered(root)
    store = Store(root)
    artifact = store.resolve("second").artifact_id
    assert len(collect_garbage(store, move=True).doomed) == 3
    assert not list(store.objects.iterdir())
    assert restore(store, artifact) == artifact
    assert Store(root).is_intact(store.resolve("second"))


def test_damage_in_a_lower_layer_is_set_aside(
    tmp_path: Path, layered: Callable[[Path], None]
) -> None:
    root = tmp_path / "store"
    build(root, chain(6))
    record = Store(root).resolve("second")
    path = Store(root).output_dir(record, "data") / "number.json"
    path.chmod(0o644)
    path.write_text("9")
    layered(root)
    Store(root).set_artifact_aside(record.artifact_id)
    assert not (root / "objects" / record.artifact_id).exists()
    assert list((root / "trash").glob(f"*/objects/{record.artifact_id}/data/number.json"))
    assert plan(chain(6), Store(root)).stages[1].status == "lost"


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A lower folder and its overlay without `redirect_dir`, where the tests may mount one."""
    lower, base, merged = tmp_path / "lower", tmp_path / "base", tmp_path / "merged"
    for path in (lower, base, merged):
        path.mkdir()
    options = f"lowerdir={lower},upperdir={base}/upper,workdir={base}/work,redirect_dir=off"
    mounts = [
        ["mount", "-t", "tmpfs", "none", str(base)],
        ["mount", "-t", "overlay", "overlay", "-o", options, str(merged)],
    ]
    if os.geteuid() or subprocess.run(mounts[0], capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs root")
    try:
        for name in ("upper", "work"):
            (base / name).mkdir()
        if subprocess.run(mounts[1], capture_output=True, check=False).returncode:
            pytest.skip("no overlay file system here")
        subprocess.run(["umount", str(merged)], check=True)
        yield lower, merged
        subprocess.run(["umount", "--lazy", str(merged)], check=False, capture_output=True)
    finally:
        subprocess.run(["umount", "--lazy", str(base)], check=True)


def test_a_real_overlay_is_a_file_system_like_others(overlay: tuple[Path, Path]) -> None:
    lower, merged = overlay
    made = manifest(stage("work", kind(train)))
    assert call(lambda: build(lower / "store", made), "checkpoint.rename@3") == KILLED
    base = lower.parent / "base"
    options = f"lowerdir={lower},upperdir={base}/upper,workdir={base}/work,redirect_dir=off"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(merged)], check=True)
    assert build(merged / "store", made) == ["work"]
    build(lower.parent / "whole", made)
    assert ids(merged / "store") == ids(lower.parent / "whole")
    disk.remove_tree(merged / "store/runs")
    assert len(collect_garbage(Store(merged / "store"), move=True).doomed) >= 1


# Full and read-only ----------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of two mebibytes, where the tests may."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs root")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(ballast: Path) -> None:
    """Write until nothing more can be written."""
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


COMMANDS = (
    ("plan", "manifests/small.yaml"),
    ("why", "scores", "-m", "manifests/small.yaml"),
    ("show",),
    ("show", "joined"),
    ("show", "joined", "--json"),
    ("show", "--lineage", "joined"),
    ("diff", "joined", "numbers"),
    ("fsck",),
    ("fsck", "--full", "--set-aside"),
    ("gc",),
    ("gc", "--move"),
    ("tag", "best", "joined"),
    ("pin", "joined"),
    ("export", "joined", "exported"),
    ("export", "joined", "exported.tar"),
    ("import", "../out", "--store", "store"),
    ("run", "manifests/small.yaml"),
    ("run", "manifests/small.yaml", "--set", "stages.numbers.params.count=77"),
)
READ = COMMANDS[:8]


@pytest.mark.parametrize("state", ["full", "read-only"])
def test_every_command_works_or_ends_with_8_and_a_way_out(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, r1pipe: Run, state: str
) -> None:
    make_project(small_disk)
    monkeypatch.chdir(small_disk)
    assert r1pipe("run", "manifests/small.yaml", "--store", "store")[0] == 0
    assert r1pipe("export", "scores", "../out", "--store", "store")[0] == 0
    monkeypatch.setenv("R1PIPE_STORE", "store")
    os.utime("data/prompts.jsonl", (1, 1))  # its id is to be found again, and remembered
    ballast = small_disk / "ballast"
    if state == "full":
        fill(ballast)
    else:
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for command in COMMANDS:
        code, _, err = r1pipe(*command)
        assert code in (0, 8), (command, err)
        assert code == 0 or command not in READ, (command, err)
        assert code == 0 or any(word in err for word in ("free", "space", "permissions")), err
    assert r1pipe("gc", "--empty-trash")[0] in ((0,) if state == "full" else (0, 8))
    if state == "full":
        ballast.unlink()
    else:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    for command in COMMANDS[-2:]:
        assert r1pipe(*command)[0] == 0
    assert r1pipe("fsck", "--full")[0] == 0


def test_a_file_too_large_for_its_file_system_is_a_refusal(tmp_path: Path) -> None:
    def too_large(context: Any, params: Params, run: Any, inputs: Inputs) -> None:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    from r1pipe.errors import StoreError

    with pytest.raises(StoreError, match="File too large"):
        build(tmp_path / "store", manifest(stage("only", kind(too_large))))


NO_PLACES = ("/proc/out", "/dev/null/out", "data/prompts.jsonl/out.tar", "x" * 300)


def test_an_export_to_where_nothing_can_be_written_ends_with_8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, r1pipe: Run
) -> None:
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert r1pipe("run", "manifests/small.yaml")[0] == 0
    for place in NO_PLACES:
        code, _, err = r1pipe("export", "joined", place)
        assert code == 8, err
        assert "name a place with space that you may write to" in err
    assert not list(Path("data").glob(".*"))


SMALL = "manifests/small.yaml"


@pytest.mark.parametrize(
    "command",
    [
        ("report", SMALL, "-o"),
        ("lock", SMALL, "-o"),
        ("run", SMALL, "--store"),
        ("init",),
    ],
    ids=lambda command: command[0],
)
def test_a_place_that_a_person_named_and_that_cannot_be_written_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, r1pipe: Run, command: tuple[str, ...]
) -> None:
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert r1pipe("run", SMALL)[0] == 0
    for place in NO_PLACES:
        code, _, err = r1pipe(*command, place)
        assert code == 8, err
        assert re.search("name a (place with space|directory)|File name too long", err), err
        assert "Errno" not in err
        assert "attempt is kept" not in err, "there is none"
    assert not list(Path("data").glob(".*"))


# Checkpoint and journal ------------------------------------------------------------------

STEPS = 8


def both(context: Any, params: Params, run: Any, inputs: Inputs) -> None:
    """Train by checkpoints, and journal a row of each step."""
    journal = context.journal("rows")
    found = context.checkpoints.latest()
    done = found[0] if found else 0
    for step in range(done + 1, STEPS + 1):
        if str(step) not in journal.done():
            journal.append(str(step), [{"step": step, "square": step * step}])
        if step % 2 == 0:
            with context.checkpoints.saving(step) as folder:
                (folder / "state").write_text(str(step))
    rows = [row["square"] for row in journal.rows()]
    (context.output("data") / "number.json").write_text(json.dumps(sum(rows)))


@pytest.mark.parametrize("frame", range(6))
@pytest.mark.parametrize("how", ["flipped", "cut"])
def test_rows_that_a_damaged_journal_lost_are_made_again(
    tmp_path: Path, frame: int, how: str
) -> None:
    made, root = manifest(stage("work", kind(both))), tmp_path / "store"
    assert call(lambda: build(root, made), "checkpoint.rename@3") == KILLED  # step 6 is saved
    (path,) = (root / "attempts").glob("*/work-*/journal/rows.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)  # a header and a row per frame
    assert len(lines) == 12
    start = sum(map(len, lines[: 2 * frame]))
    whole = bytearray(path.read_bytes())
    whole[start + len(lines[2 * frame]) + 3] ^= 1
    path.write_bytes(bytes(whole) if how == "flipped" else bytes(whole[: start + 5]))
    assert build(root, made) == ["work"]
    store = Store(root)
    number = store.output_dir(store.resolve("work"), "data") / "number.json"
    assert json.loads(number.read_text()) == 204  # 1 + 4 + 9 + ... + 64


def test_a_whole_journal_costs_no_checkpoint(tmp_path: Path) -> None:
    made, root = manifest(stage("work", kind(both))), tmp_path / "store"
    assert call(lambda: build(root, made), "checkpoint.rename@3") == KILLED
    seen: list[int] = []

    def looking(context: Any, params: Params, run: Any, inputs: Inputs) -> None:
        seen.append((context.checkpoints.latest() or (0,))[0])
        both(context, params, run, inputs)

    assert build(root, manifest(stage("work", kind(looking, name="both")))) == ["work"]
    assert seen == [6]
