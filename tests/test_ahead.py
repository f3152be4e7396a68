"""Rollouts ahead of the training: what is sampled with which weights, and exact resume."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tiny import (
    MAX_CHARS,
    FakeContext,
    assert_same_weights,
    generator,
    grpo_params,
    model,
    problems,
    stage,
    tokenizer,
)

from r1pipe.curricula.curricula import curriculum_of
from r1pipe.curricula.order import problems_of_rollouts
from r1pipe.errors import Interrupted, StageError
from r1pipe.models.policy import freeze
from r1pipe.policies.setup import check_sampler, opened
from r1pipe.policies.training import train_policy

RUN = stage("grpo").run_model(micro_batch_tokens=4096, max_batch=64)
PROBLEMS = problems(12, max_chars=MAX_CHARS)
WAIT_S = 20.0


def chosen(staleness: int = 1, **changes: Any) -> Any:
    """Return parameters of four rollouts with two updates each."""
    own = {"num_steps": 8, "sampler_truncation": 2.0, "staleness": staleness}
    return grpo_params(**(own | changes))


def train(context: FakeContext, params: Any) -> Any:
    """Train a fresh policy and return it."""
    policy = model()
    with opened(context, policy, tokenizer(), params, RUN) as run:
        train_policy(run, PROBLEMS)
    return policy


def train_slowly(context: FakeContext, params: Any) -> Any:
    """Train with the same schedule, one thing after the other, from a list of all weights."""
    policy, staleness = model(), params.staleness
    order = problems_of_rollouts(PROBLEMS, [], params)
    curriculum = curriculum_of(params, order, PROBLEMS)
    with opened(context, policy, tokenizer(), params, RUN) as run:
        assert run.reference is not None
        weights = [copy.deepcopy(policy.state_dict())]
        for number in range(4):
            sampler = model()
            sampler.load_state_dict(weights[max(0, number - staleness)])
            # PyTorch chooses other kernels for frozen weights, and so other last bits
            run.generator = generator(freeze(sampler) if staleness else sampler)
            batch = run.roll_out_enough(curriculum.next(number), number, curriculum)
            for minibatch in run.minibatches(batch.groups, number):
                run.update(minibatch, batch)
                if run.trainer.step % params.reference_refresh_steps == 0:
                    run.reference.refresh(run.trainer.engine.weights())
            weights.append(copy.deepcopy(policy.state_dict()))
    return policy


@pytest.fixture(scope="module")
def trained(tmp_path_factory: Any) -> tuple[FakeContext, Any]:
    """Return the context and the policy of an uninterrupted run."""
    context = FakeContext(tmp_path_factory.mktemp("whole"))
    return context, train(context, chosen())


@pytest.mark.parametrize("staleness", [0, 1, 2, 9])
def test_weights_are_those_of_the_same_schedule_done_in_turn(
    tmp_path: Path, staleness: int
) -> None:
    fast, slow = FakeContext(tmp_path / "fast"), FakeContext(tmp_path / "slow")
    policy = train(fast, chosen(staleness))
    assert_same_weights(policy, train_slowly(slow, chosen(staleness)))
    for column in ("loss", "kl", "reward", "mismatch_kl"):
        assert fast.column(column) == slow.column(column)


def test_older_weights_are_another_run_and_the_drift_is_measured(
    trained: tuple[FakeContext, Any], tmp_path: Path
) -> None:
    context = FakeContext(tmp_path)
    in_turn = train(context, chosen(0))
    with pytest.raises(AssertionError, match="differs"):
        assert_same_weights(in_turn, trained[1])
    drift, none = trained[0].column("mismatch_kl"), context.column("mismatch_kl")
    assert all(value < 1e-6 for value in none)
    assert [value > 1e-4 for value in drift[2:6]] == [True] * 4, "from the second rollout on"


@pytest.mark.parametrize("rollouts_before_the_kill", [1, 2, 3])
@pytest.mark.parametrize("staleness", [1, 2])
def test_a_resumed_run_ends_with_exactly_the_weights_of_the_uninterrupted_one(
    tmp_path: Path, rollouts_before_the_kill: int, staleness: int
) -> None:
    whole = FakeContext(tmp_path / "whole")
    expected = train(whole, chosen(staleness))
    first = FakeContext(tmp_path / "cut", stop_after=rollouts_before_the_kill, saves=True)
    with pytest.raises(Interrupted, match="stopped by the test"):
        train(first, chosen(staleness))
    second = FakeContext(tmp_path / "cut")
    policy = train(second, chosen(staleness))
    done = 2 * rollouts_before_the_kill
    assert [row["step"] for row in second.logged] == list(range(done + 1, 9))
    for column in ("loss", "reward", "mismatch_kl"):
        assert second.column(column) == whole.column(column)[done:]
    assert_same_weights(policy, expected)


def test_a_curriculum_sees_rollouts_in_their_order_and_resumes(tmp_path: Path) -> None:
    params = chosen(dynamic_sampling=3, rewards={"format": 1.0, "length": 1.0})
    expected = train(FakeContext(tmp_path / "whole"), params)
    assert_same_weights(expected, train_slowly(FakeContext(tmp_path / "slow"), params))
    with pytest.raises(Interrupted, match="stopped by the test"):
        train(FakeContext(tmp_path / "cut", stop_after=2, saves=True), params)
    assert_same_weights(train(FakeContext(tmp_path / "cut"), params), expected)


class Impatient(FakeContext):
    """Its stop comes while the training waits for the third rollout."""

    waits = 0

    @contextmanager
    def _stopped(self) -> Iterator[None]:
        self.waits += 1
        if self.waits == 3:
            raise Interrupted("stopped while waiting")
        yield

    def interruptible(self) -> Any:
        return self._stopped()


def test_a_stop_while_a_rollout_is_waited_for_loses_no_update(
    tmp_path: Path, trained: tuple[FakeContext, Any]
) -> None:
    with pytest.raises(Interrupted, match="stopped while waiting"):
        train(Impatient(tmp_path), chosen())
    context = FakeContext(tmp_path)
    assert_same_weights(train(context, chosen()), trained[1])
    assert context.logged[0]["step"] == 5


def test_a_rollout_is_sampled_while_the_policy_trains_on_the_one_before(tmp_path: Path) -> None:
    is_training = threading.Event()
    context, params = FakeContext(tmp_path), chosen()
    with opened(context, model(), tokenizer(), params, RUN) as run:
        roll_out, update = run.roll_out, run.update

        def waits(draws: Any, number: int, again: int = 0) -> Any:
            assert number != 1 or is_training.wait(WAIT_S), "nothing was trained meanwhile"
            return roll_out(draws, number, again)

        def tells(rollouts: Any, batch: Any) -> None:
            is_training.set()
            update(rollouts, batch)

        run.roll_out, run.update = waits, tells  # type: ignore[method-assign]
        train_policy(run, PROBLEMS)
    rows = context.notes["timeline"]
    assert [row["rollout"] for row in rows] == [0, 1, 2, 3]
    assert rows[1]["sampled_from"] <= rows[0]["trained_to"]
    assert rows[0]["trained_from"] <= rows[1]["sampled_to"]
    for row in rows:
        assert row["sampled_from"] <= row["sampled_to"] <= row["trained_from"] <= row["trained_to"]
    assert {"sampling_s", "waited_s"} <= context.logged[0].keys()


def test_what_fails_in_the_thread_ends_the_training(tmp_path: Path) -> None:
    with opened(FakeContext(tmp_path), model(), tokenizer(), chosen(), RUN) as run:

        def fails(*values: Any) -> Any:
            raise StageError("no tokens today")

        run.roll_out = fails  # type: ignore[method-assign, assignment]
        with pytest.raises(StageError, match="no tokens today"):
            train_policy(run, PROBLEMS)


@pytest.mark.parametrize("staleness", [0, 1])
def test_a_run_whose_engines_are_gone_goes_on_from_its_last_update(
    tmp_path: Path, staleness: int
) -> None:
    whole = train(FakeContext(tmp_path / "whole"), chosen(staleness))
    with opened(FakeContext(tmp_path), model(), tokenizer(), chosen(staleness), RUN) as run:
        roll_out = run.roll_out

        def fails(draws: Any, number: int, again: int = 0) -> Any:
            if number == 2:
                raise StageError("no engine is up any more")
            return roll_out(draws, number, again)

        run.roll_out = fails  # type: ignore[method-assign]
        with pytest.raises(StageError, match="no engine is up any more"):
            train_policy(run, PROBLEMS)
    context = FakeContext(tmp_path)
    assert_same_weights(train(context, chosen(staleness)), whole)
    assert context.logged[0]["step"] == 5, "no update was lost"


def test_the_samplers_own_weights_pass_the_parity_check(tmp_path: Path) -> None:
    context = FakeContext(tmp_path)
    with opened(context, model(), tokenizer(), chosen(), RUN) as run:
        check_sampler(run, PROBLEMS, RUN)
    assert 0 <= context.notes["parity"] < 1e-5
    assert 0 <= context.notes["parity_after_push"] < 1e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler_truncation": None}, "staleness 1 samples with older weights; correct for them"),
        ({"kl_in": "reward"}, "kl_in: reward asks the reference, which staleness moves"),
        ({"staleness": -1}, "greater than or equal to 0"),
    ],
)
def test_parameters_that_staleness_does_not_go_with_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        chosen(**changes)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"generator": {"backend": "vllm"}}, r"with params\.staleness add `cluster: ray`"),
        (
            {"engine": {"backend": "deepspeed", "num_processes": 2}},
            r"num_processes: rollouts are sampled ahead of a trainer of several processes by",
        ),
    ],
)
def test_a_run_that_cannot_sample_ahead_is_refused(run: dict[str, Any], message: str) -> None:
    settings = stage("grpo").run_model.model_validate(run)
    assert settings.incompatible_with(chosen(0)) is None
    found = settings.incompatible_with(chosen())
    with pytest.raises(StageError, match=message):
        raise StageError(str(found))


def test_engines_that_were_lost_are_told_after_the_rollout_and_when_the_last_one_is(
    tmp_path: Path,
) -> None:
    context = FakeContext(tmp_path)
    with opened(context, model(), tokenizer(), chosen(), RUN) as run:
        losing: Any = run.generator
        losing.losses, roll_out = list[str](), run.roll_out

        def loses(draws: Any, number: int, again: int = 0) -> Any:
            losing.losses.append(f"engine {number} is lost")
            if number == 1:
                raise StageError("no engine is left")
            return roll_out(draws, number, again)

        run.roll_out = loses  # type: ignore[method-assign]
        with pytest.raises(StageError, match="no engine is left"):
            train_policy(run, PROBLEMS)
    assert [text for text in context.warnings if "lost" in text] == [
        "engine 0 is lost",
        "engine 1 is lost",
    ]
