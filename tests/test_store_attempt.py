"""Journals, checkpoints, locks and logs: what an attempt is made of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from killing import call, running, start, stat_of, wait, wait_until
from store_world import QuietConsole, halve, kind, manifest, stage

from r1pipe.errors import StageError
from r1pipe.keys import FileEntry, digest_bytes, write_digested
from r1pipe.manifest import Manifest
from r1pipe.pipeline.planning import plan
from r1pipe.pipeline.run import run
from r1pipe.records import json_lines
from r1pipe.store import disk
from r1pipe.store.attempt import Attempt
from r1pipe.store.checkpoints import SealedCheckpoints, copy_whole
from r1pipe.store.journal import FileJournal, copy_whole_frames, encode_frame
from r1pipe.store.locks import KeyLock, LockBusy, is_alive, read_owner, this_process
from r1pipe.store.metrics import StageLog, read_metrics
from r1pipe.store.sealing import digest_all, read_seal
from r1pipe.store.store import Store


def build(root: Path, made: Manifest, **options: Any) -> list[str]:
    return run(made, Store(root), QuietConsole(), **options).built


def rows(number: int) -> list[dict[str, Any]]:
    return [{"text": f"row {number}\n{row}", "value": row / 7} for row in range(number)]


def frame_of(unit: str, rows: list[dict[str, Any]]) -> bytes:
    return encode_frame(unit, len(rows), json_lines(rows))


def test_a_journal_that_has_gone_meanwhile_is_left_out(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path)
    assert attempt.journal_sizes() == {}
    journals = attempt.begin({}) / "journal"
    (journals / "rows.jsonl").write_bytes(b"1234")
    (journals / "gone.jsonl").symlink_to("nowhere")  # listed, and not there
    assert attempt.journal_sizes() == {"rows": 4}
    assert attempt.progress() == "4 bytes of rows"


def test_a_journal_gives_back_its_units_in_order(tmp_path: Path) -> None:
    first = FileJournal(tmp_path / "j")
    first.append("b", rows(3))
    first.append("a", rows(0))
    first.append("c", rows(1))
    assert first.done() == {"a", "b", "c"}
    first.close()
    second = FileJournal(tmp_path / "j")
    assert list(second.rows()) == [*rows(3), *rows(1)]
    second.append("d", rows(2))
    second.append_lines("e", 1, json_lines(rows(1)))
    lines = {unit: second.lines(unit) for unit in sorted(second.done())}
    numbers = {"a": 0, "b": 3, "c": 1, "d": 2, "e": 1}
    assert lines == {unit: json_lines(rows(number)) for unit, number in numbers.items()}
    second.close()


@pytest.mark.parametrize("cut", [1, 5, 60, 75, 76])
def test_a_torn_tail_is_cut_off_when_a_journal_is_opened(tmp_path: Path, cut: int) -> None:
    whole = frame_of("one", rows(2))
    torn = frame_of("two", rows(2))
    (tmp_path / "j").write_bytes(whole + torn[: len(torn) - cut])
    opened = FileJournal(tmp_path / "j")
    assert opened.done() == {"one"}
    assert (tmp_path / "j").read_bytes() == whole
    opened.append("two", rows(2))
    assert len(list(opened.rows())) == 4
    opened.close()


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_no_damage_to_a_journal_gives_a_row_that_was_not_written(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("journal") / "j"
    frames = [frame_of(f"u{unit}", [{"unit": unit}]) for unit in range(4)]
    whole = bytearray(b"".join(frames))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole)
    opened = FileJournal(path)
    found = [row["unit"] for row in opened.rows()]
    opened.close()
    intact = next(index for index in range(4) if at < sum(map(len, frames[: index + 1])))
    # a space of a header that became a tab changes nothing
    assert found in (list(range(intact)), list(range(4)))


def test_a_unit_is_appended_once(tmp_path: Path) -> None:
    opened = FileJournal(tmp_path / "j")
    opened.append("one", rows(1))
    with pytest.raises(StageError, match="unit 'one' was appended before"):
        opened.append("one", rows(1))
    opened.close()


def test_a_copy_of_a_journal_ends_with_its_last_whole_frame(tmp_path: Path) -> None:
    whole = frame_of("one", rows(2))
    (tmp_path / "j").write_bytes(whole + frame_of("two", rows(9))[:-1])
    assert len(copy_whole_frames(tmp_path / "j", tmp_path / "k")) == 1
    assert (tmp_path / "k").read_bytes() == whole


def test_appended_rows_are_made_durable_while_nothing_is_appended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[float] = []
    monkeypatch.setattr(os, "fdatasync", lambda handle: synced.append(time.monotonic()))
    opened = FileJournal(tmp_path / "j", sync_every_s=0.05)
    began = time.monotonic()
    opened.append("one", rows(1))
    wait_until(lambda: bool(synced), 1.0)
    time.sleep(0.01)
    opened.append("two", rows(1))
    wait_until(lambda: len(synced) == 2, 1.0)
    assert synced[1] - began < 0.5
    opened.close()


def test_a_failed_sync_is_raised_by_the_next_append(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", fail)
    opened = FileJournal(tmp_path / "j")
    opened.append("one", rows(1))
    wait_until(lambda: opened._failure is not None)
    with pytest.raises(OSError, match="No space left"):
        opened.append("two", rows(1))
    with pytest.raises(OSError, match="No space left"):
        opened.close()


def test_reading_a_journal_takes_constant_memory(tmp_path: Path) -> None:
    code = (
        "import sys, resource; from pathlib import Path\n"
        "from r1pipe.store.journal import FileJournal\n"
        "j = FileJournal(Path(sys.argv[1]))\n"
        "if sys.argv[2] == 'write':\n"
        "    for unit in range(400): j.append(str(unit), [{'text': 'x' * 1000}] * 200)\n"
        "else:\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "    count = sum(1 for _ in j.rows())\n"
        "    print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
        "j.close()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "j")]
    subprocess.run([*command, "write"], check=True)
    ended = subprocess.run([*command, "read"], check=True, capture_output=True, text=True)
    count, grown_kib = map(int, ended.stdout.split())
    assert count == 80_000
    assert grown_kib < 4 * 1024, "80 MB of rows were read"


def save(checkpoints: SealedCheckpoints, step: int, text: str = "x") -> None:
    with checkpoints.saving(step) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "state").write_text(f"{text}{step}")


def test_the_newest_two_checkpoints_are_kept(tmp_path: Path) -> None:
    checkpoints = SealedCheckpoints(tmp_path)
    assert checkpoints.latest() is None
    for step in (1, 2, 10):
        save(checkpoints, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-0000000002",
        "step-0000000010",
    ]
    found = SealedCheckpoints(tmp_path).latest()
    assert found is not None
    assert found[0] == 10
    assert (found[1] / "deep" / "state").read_text() == "x10"


def test_a_shard_is_digested_as_it_is_written_and_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def digest_and_tell(root: Path, files: list[disk.FileStat]) -> list[str]:
        read.extend(file.path for file in files)
        return digest_all(root, files)

    monkeypatch.setattr("r1pipe.store.checkpoints.digest_all", digest_and_tell)
    checkpoints = SealedCheckpoints(tmp_path)
    shard = os.urandom(3 << 20)
    with checkpoints.saving(1) as folder:
        (folder / "part").mkdir()
        write_digested(folder / "part" / "shard.bin", shard)
        (folder / "state.json").write_text("{}")
    assert read == ["state.json"]
    saved = tmp_path / "step-0000000001"
    assert sorted(file.path for file in disk.walk(saved)[0]) == [
        "part/shard.bin",
        "seal.json",
        "state.json",
    ]
    entry = read_seal(saved).files[0]
    assert entry == FileEntry("part/shard.bin", 3 << 20, digest_bytes(shard))
    assert (saved / "part" / "shard.bin").read_bytes() == shard


def test_what_happens_to_a_shard_after_it_was_written_is_damage(tmp_path: Path) -> None:
    checkpoints = SealedCheckpoints(tmp_path / "checkpoints")
    save(checkpoints, 1)
    with checkpoints.saving(2) as folder:
        write_digested(folder / "shard.bin", b"right")
        (folder / "shard.bin").write_bytes(b"wrong")
    again = SealedCheckpoints(tmp_path / "checkpoints").latest()
    assert again is not None
    assert again[0] == 1


def test_a_block_that_fails_leaves_no_checkpoint(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "state").write_text("half")
        raise ValueError("no")

    checkpoints = SealedCheckpoints(tmp_path)
    with pytest.raises(ValueError, match="no"), checkpoints.saving(1) as folder:
        fail(folder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["flip", "delete", "seal"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str) -> None:
    checkpoints = SealedCheckpoints(tmp_path)
    save(checkpoints, 1)
    save(checkpoints, 2)
    newest = tmp_path / "step-0000000002"
    if damage == "flip":
        (newest / "deep" / "state").write_text("y2")
    elif damage == "delete":
        (newest / "deep" / "state").unlink()
    else:
        (newest / "seal.json").chmod(0o644)
        (newest / "seal.json").write_text("{}")
    found = SealedCheckpoints(tmp_path).latest()
    assert found is not None
    assert found[0] == 1
    assert not copy_whole(newest, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert copy_whole(found[1], tmp_path / "copy")


def test_a_step_can_be_saved_again(tmp_path: Path) -> None:
    checkpoints = SealedCheckpoints(tmp_path)
    save(checkpoints, 1, "old")
    save(checkpoints, 1, "new")
    found = SealedCheckpoints(tmp_path).latest()
    assert found is not None
    assert (found[1] / "deep" / "state").read_text() == "new1"


def test_a_held_lock_is_busy_and_names_its_owner(tmp_path: Path) -> None:
    first, second = KeyLock(tmp_path, "k"), KeyLock(tmp_path, "k")
    with first.held():
        with pytest.raises(LockBusy, match=f"process {os.getpid()} on "):
            second.acquire()
        KeyLock(tmp_path, "other").acquire()
    second.acquire()
    second.release()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "gate.lock",
        "other.lock",
        "other.owner",
    ]


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    def hold() -> None:
        KeyLock(tmp_path, "k").acquire()
        os.kill(os.getpid(), signal.SIGKILL)

    assert call(hold) == -signal.SIGKILL
    with KeyLock(tmp_path, "k").held():
        pass


def test_an_owner_lives_only_while_its_very_process_does(tmp_path: Path) -> None:
    here = this_process()
    assert is_alive(here)
    assert not is_alive({**here, "born": "1"})  # its pid belongs to another process by now
    assert not is_alive({**here, "boot": "an earlier one"})
    assert is_alive({**here, "host": "elsewhere", "pid": 1 << 30})  # nobody can tell
    pid = start(lambda: disk.place_json(tmp_path / "owner", this_process()))
    wait_until(lambda: stat_of(pid)[0] == "Z")
    assert not is_alive(read_owner(tmp_path / "owner"))
    assert wait(pid) == 0
    assert not is_alive(read_owner(tmp_path / "owner"))


def test_a_lock_that_an_orphan_still_holds_is_taken_from_its_dead_owner(tmp_path: Path) -> None:
    import fcntl

    def hold() -> None:
        lock = KeyLock(tmp_path, "k")
        lock.acquire()
        # a handle that survives in a child which Python did not fork
        handle = os.open(lock.path, os.O_RDWR)
        assert lock._lock is not None
        held: Any = lock._lock
        fcntl.flock(held._context.lock_file_fd, fcntl.LOCK_UN)
        fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fork() == 0:
            (tmp_path / "orphan").write_text(str(os.getpid()))
            time.sleep(20)
            os._exit(0)
        wait_until(lambda: (tmp_path / "orphan").exists() and bool(pid_of(tmp_path / "orphan")))
        os.kill(os.getpid(), signal.SIGKILL)

    assert call(hold) == -signal.SIGKILL
    orphan = int(pid_of(tmp_path / "orphan"))
    try:
        lock = KeyLock(tmp_path, "k")
        lock.acquire()
        with pytest.raises(LockBusy, match=str(os.getpid())):
            KeyLock(tmp_path, "k").acquire()
        lock.release()
    finally:
        os.kill(orphan, signal.SIGKILL)


def pid_of(path: Path) -> str:
    return path.read_text()


def test_eight_processes_take_turns(tmp_path: Path) -> None:
    def take_turns() -> None:
        for _ in range(5):
            with KeyLock(tmp_path / "locks", "k").held():
                os.close(os.open(tmp_path / "inside", os.O_CREAT | os.O_EXCL))
                time.sleep(0.002)
                (tmp_path / "inside").unlink()
                with (tmp_path / "turns").open("a") as file:
                    file.write("x")

    pids = [start(take_turns) for _ in range(8)]
    assert [wait(pid) for pid in pids] == [0] * 8
    assert (tmp_path / "turns").read_text() == "x" * 40


def test_a_torn_line_of_metrics_spoils_no_other(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "lo')
    log = StageLog(tmp_path)
    log.metric(2, {"loss": 1.5})
    log.metric(2, {"reward": 0.5})
    log.close()
    assert read_metrics(tmp_path) == [
        {"step": 1, "loss": 2.5},
        {"step": 2, "loss": 1.5, "reward": 0.5},
    ]


def test_a_run_waits_for_another_one_and_says_for_which(tmp_path: Path) -> None:
    def slow(context: Any, params: Any, run: Any, inputs: Any) -> None:
        save(context.checkpoints, 4)
        (tmp_path / "begun").touch()
        wait_until((tmp_path / "go").exists)
        (context.output("data") / "number.json").write_text("8")

    made = manifest(stage("slow", kind(slow)), stage("half", kind(halve), {"a": "slow"}))
    with running(lambda: build(tmp_path / "store", made)) as pid:
        wait_until((tmp_path / "begun").exists)
        planned = plan(made, Store(tmp_path / "store")).stages[0]
        assert planned.status == "resume"
        assert planned.reason.startswith(f"process {pid} on ")
        assert planned.reason.endswith(" works on it (step 4)")
        console = QuietConsole()
        original = console.message

        def message(text: str) -> None:
            original(text)
            (tmp_path / "go").touch()

        console.message = message  # type: ignore[method-assign]
        run(made, Store(tmp_path / "store"), console)
        assert f"slow: waiting for process {pid} on" in str(console.events)
        assert "slow" not in console.started()
        wait(pid)
