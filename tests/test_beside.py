"""Checkpoints that a thread writes: what they hold, who waits for them, what fails in them."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training_loop import trainer, update
from tiny import FakeContext

from r1pipe.errors import Interrupted, StageError
from r1pipe.launch.cadence import Cadence
from r1pipe.launch.context import RunContext
from r1pipe.launch.rank_context import RankCheckpoints
from r1pipe.launch.stopping import Stopper
from r1pipe.store.checkpoints import SealedCheckpoints
from r1pipe.store.sealing import JournalMark, read_seal
from r1pipe.train import state
from r1pipe.train.state import StateWriter, held

WAIT_S = 20.0


def nothing(folder: Path) -> Callable[[], None]:
    return lambda: None


def breaks(folder: Path) -> Callable[[], None]:
    def write() -> None:
        raise OSError(28, "no space left")

    return write


class Gate:
    """Lets a checkpoint's files be written once it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_open = threading.Event()
        save_tensors = state.save_tensors

        def waits(tensors: dict[str, Any], path: Path) -> None:
            assert self.is_open.wait(WAIT_S), "the training waits for its checkpoint"
            save_tensors(tensors, path)

        monkeypatch.setattr(state, "save_tensors", waits)


def test_a_checkpoint_has_the_weights_of_its_step_though_training_went_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, made = Gate(monkeypatch), trainer(FakeContext(tmp_path))
    made.update(update())
    made.save()
    then = copy.deepcopy(made.engine.model.state_dict())
    made.update(update())
    again = trainer(FakeContext(tmp_path))
    assert again.step == 0, "nothing is named before it is whole"
    gate.is_open.set()
    made._context.checkpoints.wait()
    again = trainer(FakeContext(tmp_path))
    assert (again.step, again.trained_tokens) == (1, 5)
    for name, tensor in again.engine.model.state_dict().items():
        assert torch.equal(tensor, then[name])
        assert name != "lm_head.weight" or not torch.equal(
            tensor, made.engine.model.state_dict()[name]
        )


def test_the_next_checkpoint_waits_for_the_one_before(tmp_path: Path) -> None:
    checkpoints, ended = SealedCheckpoints(tmp_path), threading.Event()

    def slow(folder: Path) -> Callable[[], None]:
        def write() -> None:
            ended.wait(0.05)
            (folder / "state").write_text("1")

        return write

    checkpoints.save_beside(1, slow)
    checkpoints.save_beside(2, nothing)
    assert (tmp_path / "step-0000000001" / "state").read_text() == "1"
    found = checkpoints.latest()
    assert found is not None
    assert found[0] == 2


def test_a_write_that_failed_is_raised_once_at_the_next_update_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*values: Any) -> None:
        raise OSError(28, "no space left")

    context = FakeContext(tmp_path, saves=True)
    made = trainer(context)
    monkeypatch.setattr(state, "save_tensors", full)
    made.update(update())
    made.checkpoint()
    assert made._context.checkpoints._thread is not None  # type: ignore[attr-defined]
    made._context.checkpoints._thread.join()  # type: ignore[attr-defined]
    made.update(update())
    with pytest.raises(OSError, match="no space left"):
        made.checkpoint()
    assert context.checkpoints.latest() is None


def test_a_block_that_fails_in_a_thread_leaves_no_checkpoint(tmp_path: Path) -> None:
    checkpoints = SealedCheckpoints(tmp_path)
    checkpoints.save_beside(1, breaks)
    with pytest.raises(OSError, match="no space left"):
        checkpoints.wait()
    checkpoints.check()
    assert list(tmp_path.iterdir()) == []


def test_a_snapshot_that_fails_is_raised_at_once(tmp_path: Path) -> None:
    def fails(folder: Path) -> Callable[[], None]:
        raise StageError("not finite")

    checkpoints = SealedCheckpoints(tmp_path)
    with pytest.raises(StageError, match="not finite"):
        checkpoints.save_beside(1, fails)
    assert list(tmp_path.iterdir()) == []


def test_a_stop_is_told_when_its_checkpoint_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, context = Gate(monkeypatch), FakeContext(tmp_path, saves=True, stop_after=1)
    made = trainer(context)
    threading.Timer(0.05, gate.is_open.set).start()
    with pytest.raises(Interrupted, match="stopped by the test"):
        made.run([update(), update()])
    assert (tmp_path / "checkpoints" / "step-00000001").is_dir()


def test_what_does_not_fit_into_memory_is_written_at_once(tmp_path: Path) -> None:
    one = torch.ones(100)  # 400 bytes
    with held(900) as files:
        writer = StateWriter(tmp_path, limit=400)
        for number in range(3):
            writer.add(f"weight:{number}", one)
        writer.flush()
        assert [path.name for path in tmp_path.glob("*.safetensors")] == [
            "engine-00002.safetensors"
        ]
    files.write()
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    with held(0) as files:
        StateWriter(tmp_path, "at-once").flush()
        writer = StateWriter(tmp_path, "at-once")
        writer.add("weight:0", one)
        writer.flush()
    assert (tmp_path / "at-once.safetensors").exists()


def test_held_tensors_are_copies(tmp_path: Path) -> None:
    weight = torch.ones(3)
    with held(1 << 20) as files:
        writer = StateWriter(tmp_path)
        writer.add("weight:w", weight)
        writer.flush()
    weight.zero_()
    files.write()
    ((_, found, _),) = state.read_state(tmp_path, ["w"])
    assert found.tolist() == [1.0, 1.0, 1.0]


def test_journals_are_marked_as_they_were_when_the_state_was_copied(tmp_path: Path) -> None:
    units = [1]
    marks = {"rows": JournalMark(units=1, crc=7)}

    def mark() -> dict[str, JournalMark]:
        return {"rows": JournalMark(units=units[0], crc=7)}

    checkpoints = SealedCheckpoints(tmp_path, mark_journals=mark)

    def grows(folder: Path) -> Callable[[], None]:
        units[0] = 2
        return lambda: None

    checkpoints.save_beside(1, grows)
    checkpoints.wait()
    assert dict(read_seal(tmp_path / "step-0000000001").journals) == marks


def test_no_checkpoint_is_due_while_one_is_written() -> None:
    cadence = Cadence(1e-9)
    assert cadence.is_due
    cadence.begun()
    assert not cadence.is_due
    cadence.saved(0.0)
    assert cadence.is_due


def test_a_stage_whose_last_checkpoint_failed_does_not_end_well(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    context = RunContext("tested", tmp_path, ("model",), {}, lambda *told: None, Stopper())
    context.checkpoints.save_beside(1, breaks)
    with pytest.raises(OSError, match="no space left"):
        context.close()


class TwoRanks:
    """Rank 0 of two; what the other one does, the test does."""

    size, rank, is_main = 2, 0, True

    def agree(self, value: object) -> object:
        return value


@pytest.mark.parametrize("failure", ["", "OSError: no space left"])
def test_a_checkpoint_of_ranks_is_sealed_when_all_parts_are_there(
    tmp_path: Path, failure: str
) -> None:
    ranks: Any = TwoRanks()
    checkpoints = RankCheckpoints(SealedCheckpoints(tmp_path), ranks)

    def snapshot(folder: Path) -> Callable[[], None]:
        def write() -> None:
            (folder / "mine").write_text("0")
            (folder / "other").write_text("1")
            (folder / ".part-1").write_text(failure)

        return write

    checkpoints.save_beside(1, snapshot)
    if failure:
        with pytest.raises(StageError, match=r"rank 1 could not write its part .*: OSError: no"):
            checkpoints.wait()
        assert list(tmp_path.iterdir()) == []
        return
    checkpoints.wait()
    names = sorted(path.name for path in (tmp_path / "step-0000000001").iterdir())
    assert names == ["mine", "other", "seal.json"]
