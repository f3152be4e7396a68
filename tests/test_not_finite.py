"""What is not finite ends a training before anything of it is kept."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import FakeContext, grpo_params, model, problems, stage, tokenizer

from r1pipe.errors import StageError
from r1pipe.models.policy import save_model
from r1pipe.policies.setup import opened
from r1pipe.policies.training import train_policy
from r1pipe.records import TokenSequence
from r1pipe.settings import Optimizer
from r1pipe.train.batching import Batching, MicroBatch, micro_batches
from r1pipe.train.engine import Loss, TorchEngine
from r1pipe.train.logprobs import token_logprobs
from r1pipe.train.loop import Trainer, Update

SEQUENCES = [TokenSequence([5, 6], [7, 8, 9 + number], number) for number in range(6)]
BATCHING = Batching(10, "padded", 0)
"""Two rows a micro-batch."""


def loss(policy: Any, batch: MicroBatch, bad_rows: set[int], scale: float = 1.0) -> Loss:
    value = -token_logprobs(policy, batch).sum() * scale
    is_bad = bad_rows & set(batch.sequence_index.flatten().tolist())
    return Loss(value * float("nan") if is_bad else value)


def update(*bad_rows: int, scale: float = 1.0) -> Update:
    function = partial(loss, bad_rows=set(bad_rows), scale=scale)
    return Update(micro_batches(SEQUENCES, BATCHING), function, 30, 30)


def trainer(context: FakeContext, policy: Any, workers: int = 1, lr: float = 1e-2) -> Trainer:
    return Trainer(context, TorchEngine(policy, workers=workers), Optimizer(lr=lr), 6)


def weights_of(policy: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in policy.named_parameters()}


def assert_same(policy: Any, before: dict[str, torch.Tensor]) -> None:
    for name, parameter in policy.named_parameters():
        assert torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("workers", [1, 2])
def test_a_loss_that_is_nan_stops_before_the_step_and_names_the_rows_of_its_micro_batch(
    tmp_path: Path, workers: int
) -> None:
    context, policy = FakeContext(tmp_path, saves=True), model()
    made = trainer(context, policy, workers)
    made.run([update()])
    before = weights_of(policy)
    said = r"tested: step 2: the loss is nan in a micro-batch of the rows 2, 3 \(from 0\)"
    with pytest.raises(StageError, match=said) as caught:
        made.run([update(3)])
    assert_same(policy, before)
    assert [row["step"] for row in context.logged] == [1]
    assert "the last checkpoint is that of step 1" in str(caught.value)
    assert "params.optimizer.lr: 0.01" in str(caught.value)
    latest = context.checkpoints.latest()
    assert latest is not None
    assert latest[0] == 1


def test_the_first_row_is_named_too(tmp_path: Path) -> None:
    alone = Update(
        micro_batches(SEQUENCES, Batching(1, "padded", 0)), partial(loss, bad_rows={0}), 30, 30
    )
    with pytest.raises(
        StageError, match=r"the loss is nan in a micro-batch of the rows 0 \(from 0\)"
    ):
        trainer(FakeContext(tmp_path), model()).run([alone])


def test_in_grpo_a_loss_that_is_nan_names_the_problems_of_its_micro_batch(tmp_path: Path) -> None:
    run = stage("grpo").run_model(workers=1, micro_batch_tokens=1)  # one completion in each
    context, asked = FakeContext(tmp_path), problems(8, max_chars=18)
    with (  # noqa: PT012
        pytest.raises(
            StageError, match=r"step 1: the loss is nan in a micro-batch of problem (.*)"
        ),
        opened(context, model(), tokenizer(), grpo_params(), run) as grpo,
    ):
        sample, poisoned = grpo.roll_out, list[str]()

        def roll_out(chosen: Any, number: int, again: int = 0) -> Any:
            groups = sample(chosen, number, again)
            poisoned.append(groups[1].problem.id)
            groups[1].rollouts[0].streams["advantage"][0] = float("nan")
            return groups

        grpo.roll_out = roll_out  # type: ignore[method-assign, assignment]
        try:
            train_policy(grpo, asked)
        except StageError as error:
            assert f"in a micro-batch of problem {poisoned[0]}. The step" in str(error)  # noqa: PT017
            raise


def test_a_gradient_that_is_not_finite_stops_before_the_step(tmp_path: Path) -> None:
    # A finite loss of zero whose gradient is infinite: the root of the squared difference to
    # itself, at 0.
    def rooted(policy: Any, batch: MicroBatch) -> Loss:
        values = token_logprobs(policy, batch)
        return Loss((values - values.detach()).abs().sqrt().sum())

    policy = model()
    before = weights_of(policy)
    context = FakeContext(tmp_path)
    with pytest.raises(StageError, match=r"step 1: the gradient norm is (nan|inf)") as caught:
        trainer(context, policy).update(Update(micro_batches(SEQUENCES, BATCHING), rooted, 30, 30))
    assert_same(policy, before)
    assert "the last checkpoint is not there yet" in str(caught.value)
    assert context.logged == []


def test_a_learning_rate_of_1e30_ends_as_an_error_and_not_as_a_model(tmp_path: Path) -> None:
    context, policy = FakeContext(tmp_path), model()
    made = trainer(context, policy, lr=1e30)
    with pytest.raises(StageError, match=r"step 2: the (loss|gradient norm) is (nan|inf)"):
        made.run([update(), update(), update()])


def test_a_checkpoint_of_weights_that_are_not_finite_is_never_sealed(tmp_path: Path) -> None:
    context, policy = FakeContext(tmp_path), model()
    made = trainer(context, policy)
    made.update(update())
    made.save()
    next(policy.parameters()).data[0, 0] = float("inf")
    made.step = 2
    with pytest.raises(StageError, match=r"state of the training are not finite: 1 of [\d,]+ num"):
        made.save()
    latest = context.checkpoints.latest()
    assert latest is not None
    assert latest[0] == 1


def test_a_model_that_is_not_finite_is_never_written(tmp_path: Path) -> None:
    policy = model()
    policy.lm_head.weight.data[3, 1] = float("nan")
    with pytest.raises(StageError, match=r"weights are not finite: 1 of [\d,]+ numbers of "):
        save_model(policy, tokenizer(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_whether_any_update_had_a_gradient_survives_a_resume(tmp_path: Path) -> None:
    context = FakeContext(tmp_path, saves=True)
    first = trainer(context, model())
    first.run([update(scale=0.0)])
    assert not first.has_moved
    second = trainer(context, model())
    assert not second.has_moved, "read from the checkpoint"
    second.run([update()])
    assert trainer(context, model()).has_moved
