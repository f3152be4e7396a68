"""The training loop: what is logged, and what a checkpoint holds beside the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import FakeContext, model

from r1pipe.ranks import Ranks
from r1pipe.records import TokenSequence
from r1pipe.settings import Optimizer
from r1pipe.train.batching import one_batch
from r1pipe.train.engine import Loss, TorchEngine
from r1pipe.train.gpu_memory import GpuMemory
from r1pipe.train.logprobs import token_logprobs
from r1pipe.train.loop import Trainer, Update, risen_loss

OPTIMIZER = Optimizer(lr=1e-2, schedule="cosine", warmup_steps=2)
SEQUENCE = TokenSequence([5, 6], [7, 8, 9])


def update(trained_tokens: int = 5, num_tokens: int = 5, **options: Any) -> Update:
    def loss(policy: Any, batch: Any) -> Loss:
        return Loss(-token_logprobs(policy, batch).sum(), sums={"own": 1.0, "kl": 2.0})

    return Update([one_batch([SEQUENCE], 0)], loss, num_tokens, trained_tokens, **options)


def trainer(context: FakeContext, others: Any = ()) -> Trainer:
    return Trainer(context, TorchEngine(model()), OPTIMIZER, 6, others)


def test_an_update_is_logged_with_its_measures_its_rate_and_what_it_is_told(
    tmp_path: Path,
) -> None:
    context = FakeContext(tmp_path)
    measures = trainer(context).update(update(), {"kl": 7.0, "reward": 0.5})
    (row,) = context.logged
    assert (row["step"], row["own"], row["kl"], row["reward"]) == (1, 1.0, 7.0, 0.5)
    assert row["lr"] == pytest.approx(0.5e-2)  # the first of two steps of warm-up
    assert row["grad_norm"] > 0
    assert (measures["own"], measures["kl"]) == (1.0, 2.0), "as they were measured"


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ([], ""),
        ([1.0, 9.0, 9.0], ""),  # too few
        ([2.0, 9.0, 9.0, 2.5], ""),  # a quarter more, not over it
        ([1.0, 3.0, *[2.0] * 4, 2.0, 2.0], ""),
        ([1.0, 3.0, *[2.0] * 4, 2.0, 4.0], "from 2 to 3 (means of the first and the last quarter)"),
        ([1.0, 10.5, 1.0, 1.0], "the loss, 1 at first, rose to 10.5 on the way"),
    ],
)
def test_a_loss_that_rose_is_told_by_quarters_or_by_its_peak(
    losses: list[float], said: str
) -> None:
    found = risen_loss(losses)
    assert (said in found) if said else not found


def test_a_training_that_makes_its_loss_worse_is_warned_of_with_its_rate(tmp_path: Path) -> None:
    context, far = FakeContext(tmp_path / "far"), Optimizer(lr=1e3)
    Trainer(context, TorchEngine(model()), far, 6).run(update() for _ in range(6))
    (text,) = context.warnings
    assert "the loss" in text
    assert "rose" in text
    assert "(params.optimizer.lr: 1000)" in text
    calm = FakeContext(tmp_path / "calm")
    trainer(calm).run(update() for _ in range(6))
    assert calm.warnings == []


def test_seconds_before_the_step_slow_it_down(tmp_path: Path) -> None:
    context = FakeContext(tmp_path)
    trainer(context).update(update(seconds=50.0))
    assert 0.05 < context.logged[0]["tokens_per_s"] < 0.1  # 5 tokens in 50 seconds and a little


def test_an_update_without_tokens_makes_no_step_and_has_its_place_in_the_schedule(
    tmp_path: Path,
) -> None:
    context = FakeContext(tmp_path)
    made = trainer(context)
    made.update(update(0, num_tokens=0))
    made.update(update())
    assert "grad_norm" not in context.logged[0]
    assert context.column("lr") == pytest.approx([0.5e-2, 1e-2])


class Kept:
    """Something that a checkpoint has beside the engine."""

    text = "new"

    def save(self, folder: Path) -> None:
        (folder / "kept").write_text("saved")

    def load(self, folder: Path) -> None:
        self.text = (folder / "kept").read_text()


def test_a_checkpoint_holds_the_step_the_tokens_and_what_else_is_saved(tmp_path: Path) -> None:
    context = FakeContext(tmp_path, saves=True)
    trainer(context, [Kept()]).run([update(), update(trained_tokens=3)])
    context.checkpoints.wait()  # the last one is written beside what follows
    kept = Kept()
    second = trainer(FakeContext(tmp_path), [kept])
    assert (second.step, second.trained_tokens, kept.text) == (2, 8, "saved")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Stand for a GPU whose tensors have taken so many bytes; what was reset is forgotten."""
    taken = [900]
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: taken.clear())
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: max(taken))
    return taken


def test_the_most_memory_on_a_gpu_is_logged_at_every_step_and_noted_at_the_end(
    tmp_path: Path, gpu: list[int]
) -> None:
    context = FakeContext(tmp_path)
    made = trainer(context)
    assert gpu == [900], "nothing is asked of a CPU"
    made._memory = GpuMemory(torch.device("cuda", 1))
    for number in range(6):
        gpu.append([10, 30, 20, 20, 70, 60][number])
        made.update(update())
    assert context.column("peak_gpu_bytes") == [10, 30, 30, 30, 70, 70]
    assert context.notes["peak_gpu_bytes"] == 70
    on_cpu = FakeContext(tmp_path / "cpu")
    trainer(on_cpu).run([update()] * 6)
    assert "peak_gpu_bytes" not in on_cpu.logged[-1] | on_cpu.notes


def test_the_rank_that_needs_most_is_noted(tmp_path: Path, gpu: list[int]) -> None:
    class TwoRanks(Ranks):
        def gather(self, value: Any) -> list[Any]:
            return [value, {"peak_gpu_bytes": 99}]

    context = FakeContext(tmp_path)
    made = trainer(context)
    made._memory, context.ranks = GpuMemory(torch.device("cuda")), TwoRanks()
    gpu.append(5)
    made._note_memory()
    assert context.notes == {"peak_gpu_bytes": 99}
