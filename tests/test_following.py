"""Sampling that is followed: progress, batches that survive, and a stop that does not wait."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny import FakeContext, generator, grpo_params, model, problems, stage, tokenizer

from r1pipe.errors import Interrupted
from r1pipe.generate.following import Followed, Kept
from r1pipe.generate.protocol import Request, Sampled, SamplingParams
from r1pipe.launch.stopping import Stopper
from r1pipe.policies.setup import opened
from r1pipe.policies.training import train_policy
from r1pipe.records import FinishReason

SAMPLING = SamplingParams(max_tokens=6, logprobs=False)
REQUESTS = [Request((5 + i % 3, 9), 100 + i, i) for i in range(10)]


class Counting:
    """A real sampler that counts what it was asked for, and may be stopped after some."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.generator = generator(model(), max_batch=4)
        self.asked: list[int] = []
        self.stop_after = stop_after

    def generate(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Sampled]:
        self.asked.append(len(requests))
        for number, sampled in enumerate(self.generator.generate(requests, sampling)):
            if number == self.stop_after:
                raise Interrupted("stopped by the test")
            yield sampled

    def load_weights(self, tensors: Any) -> None:
        return

    def sleep(self) -> None:
        return

    def close(self) -> None:
        return


def followed(context: FakeContext, sampler: Counting, unit: str = "0") -> Followed:
    return Followed(sampler, context, Kept(context.journal("batches"), unit, 4))


def by_index(sampled: Iterator[Sampled]) -> dict[int, Sampled]:
    return {each.index: each for each in sampled}


def test_a_stopped_unit_samples_only_its_other_batches_and_gets_the_same_tokens(
    tmp_path: Path,
) -> None:
    whole = by_index(Counting().generate(REQUESTS, SAMPLING))
    context = FakeContext(tmp_path)
    with pytest.raises(Interrupted, match="by the test"):
        list(followed(context, Counting(stop_after=9)).generate(REQUESTS, SAMPLING))
    assert context.journal("batches").done() == {"0/0", "0/1"}
    sampler = Counting()
    found = by_index(followed(context, sampler).generate(REQUESTS, SAMPLING))
    assert sampler.asked == [2]
    assert found == whole


def test_a_unit_that_is_stopped_twice_goes_on_behind_both_stops(tmp_path: Path) -> None:
    context = FakeContext(tmp_path)
    for sampler in (Counting(stop_after=5), Counting(stop_after=5)):
        with pytest.raises(Interrupted):
            list(followed(context, sampler).generate(REQUESTS, SAMPLING))
    assert context.journal("batches").done() == {"0/0", "0/1"}
    assert len(by_index(followed(context, Counting()).generate(REQUESTS, SAMPLING))) == 10


def test_batches_of_another_unit_or_of_other_requests_are_not_taken(tmp_path: Path) -> None:
    context = FakeContext(tmp_path)
    list(followed(context, Counting()).generate(REQUESTS, SAMPLING))
    others = [Request(r.prompt_ids, r.seed + 50, r.index) for r in REQUESTS]
    for unit, requests in (("1", REQUESTS), ("0", others)):
        sampler = Counting()
        found = by_index(followed(context, sampler, unit).generate(requests, SAMPLING))
        assert sampler.asked == [10]
        assert sorted(found) == list(range(10))


def test_what_is_sampled_is_shown_also_while_nothing_comes(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("r1pipe.generate.following.SHOWN_EVERY_S", 0.01)
    context, may_go = FakeContext(tmp_path), threading.Event()

    class Slow(Counting):
        def generate(self, requests: Sequence[Request], sampling: Any) -> Iterator[Sampled]:
            yield Sampled(0, [1], [], FinishReason.STOP)
            assert may_go.wait(60)

    def shown() -> Iterator[None]:
        yield from Followed(Slow(), context).generate(REQUESTS, SAMPLING)  # type: ignore[misc]

    waiting = threading.Thread(target=lambda: list(shown()))
    waiting.start()
    while ("sampling", 1, 10) not in context.done:
        time.sleep(0.005)
    may_go.set()
    waiting.join()
    count = len(context.done)
    time.sleep(0.05)
    assert len(context.done) == count, "nothing is shown behind the end"


# ---- stopping ------------------------------------------------------------------------------------


def interrupted_soon(stopper: Stopper, until: threading.Event) -> threading.Thread:
    """Send this process a Ctrl-C as soon as `until` is set."""

    def send() -> None:
        assert until.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_a_signal_ends_the_waiting_at_once_and_only_there() -> None:
    stopper, is_waiting = Stopper(), threading.Event()

    def wait() -> None:
        with stopper.at_once():
            is_waiting.set()
            time.sleep(60)

    with stopper.listening():
        thread = interrupted_soon(stopper, is_waiting)
        with pytest.raises(Interrupted, match="stopped by SIGINT"):
            wait()
        thread.join()
        with pytest.raises(Interrupted), stopper.at_once():
            pytest.fail("the block is not entered once a stop was asked for")


def test_outside_of_such_a_block_a_signal_is_only_remembered() -> None:
    stopper = Stopper()
    with stopper.listening():
        with stopper.at_once():
            pass
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        assert stopper.is_asked


@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_stops_batches_in_the_middle_of_their_tokens(tmp_path: Path, workers: int) -> None:
    class Context(FakeContext):
        stopper = Stopper()

        def interruptible(self) -> Any:
            return self.stopper.at_once()

    context, is_sampling, steps = Context(tmp_path), threading.Event(), [0]
    policy = model()
    forward = policy.forward

    def counted(*values: Any, **named: Any) -> Any:
        steps[0] += 1
        if steps[0] == 5:
            is_sampling.set()
        return forward(*values, **named)

    policy.forward = counted
    sampler = generator(policy, max_batch=2)
    sampler.workers = workers
    sampler.end_ids = frozenset()
    with context.stopper.listening():
        thread = interrupted_soon(context.stopper, is_sampling)
        many = SamplingParams(max_tokens=100_000, logprobs=False)
        with pytest.raises(Interrupted):
            list(Followed(sampler, context).generate(REQUESTS, many))
        thread.join()
    assert steps[0] < 50_000
    policy.forward = forward
    assert len(list(sampler.generate(REQUESTS, SAMPLING))) == 10, "it samples again afterwards"


def test_a_rollout_that_is_interrupted_keeps_the_updates_before_it(
    tmp_path: Path, monkeypatch: Any
) -> None:
    context, calls = FakeContext(tmp_path), [0]
    with opened(context, model(), tokenizer(), grpo_params(), stage("grpo").run_model()) as run:
        roll_out = run.roll_out

        def second_fails(*values: Any) -> Any:
            calls[0] += 1
            if calls[0] == 2:
                raise Interrupted("stopped by the test")
            return roll_out(*values)

        monkeypatch.setattr(run, "roll_out", second_fails)
        with pytest.raises(Interrupted, match="by the test"):
            train_policy(run, problems(12, max_chars=18))
        latest = context.checkpoints.latest()
        assert latest is not None
        assert latest[0] == 2
