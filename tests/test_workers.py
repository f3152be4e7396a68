"""Threads that share a step: order, bounds, errors, and results that do not depend on them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny import (
    frozen_logprobs,
    generator,
    model,
    objective,
    rollout,
    set_advantage,
    tokenizer,
    update_policy,
)

from r1pipe.generate.protocol import Request, SamplingParams
from r1pipe.train.batching import Batching
from r1pipe.train.engine import TorchEngine, add_gradients
from r1pipe.workers import in_order, num_workers

PAD = tokenizer().pad_token_id
ROLLOUTS = [
    rollout([5 + i % 7, 9], [11 + (3 * i + j) % 20 for j in range(2 + i % 9)], [-1.0] * (2 + i % 9))
    for i in range(40)
]


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    def slow_first(item: int) -> int:
        time.sleep(0.05 if item == 0 else 0.0)
        return item * item

    assert list(in_order(slow_first, range(30), workers)) == [n * n for n in range(30)]


def test_no_more_items_are_taken_than_are_computed_and_waited_for() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = in_order(lambda n: n, items(), 2)
    assert next(results) == 0
    assert len(taken) <= 5  # two computed, two waiting, one in hand
    results.close()


class Gradients:
    """Something large, of which there must be few at any time."""

    alive = 0

    def __init__(self) -> None:
        Gradients.alive += 1

    def __del__(self) -> None:
        Gradients.alive -= 1


def test_no_more_results_are_there_than_may_be_ahead_and_the_one_that_is_taken() -> None:
    most = 0
    for result in in_order(lambda _: Gradients(), range(40), 2, ahead=2):
        time.sleep(0.002)  # the workers have all the time to run ahead
        most = max(most, Gradients.alive)
        del result
    assert most <= 3
    assert Gradients.alive == 0


@pytest.mark.parametrize("stop", ["error", "close"])
def test_what_is_under_way_is_told_when_nobody_waits_for_it_any_more(stop: str) -> None:
    is_abandoned = threading.Event()

    def work(item: int) -> int:
        if item:
            assert is_abandoned.wait(60), "or it would wait for the others for ever"
        if item == 0 and stop == "error":
            raise ValueError("the first")
        return item

    results = in_order(work, range(3), 2, is_abandoned.set)
    if stop == "error":
        with pytest.raises(ValueError, match="the first"):
            next(results)
    else:
        work_of_first = next(results)
        assert work_of_first == 0
        results.close()
    assert is_abandoned.is_set()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_error_is_raised_and_ends_the_work(workers: int) -> None:
    seen: list[int] = []

    def fail(item: int) -> int:
        seen.append(item)
        if item == 3:
            raise ValueError("the fourth")
        return item

    with pytest.raises(ValueError, match="the fourth"):
        list(in_order(fail, range(1000), workers))
    count = len(seen)
    assert count < 20
    time.sleep(0.05)
    assert len(seen) == count, "work went on behind the error"


def test_an_accelerator_has_one_worker_and_a_number_stands() -> None:
    assert num_workers(None, "cuda:1") == num_workers(3, "cuda") == 1
    assert num_workers(3, "cpu") == 3
    assert 1 <= num_workers(None, "cpu") <= 4


def updated(workers: int) -> tuple[dict[str, float], dict[str, Any]]:
    engine = TorchEngine(model(), workers=workers)
    batching = Batching(24, "padded", PAD, workers)
    reference = frozen_logprobs(model(2), ROLLOUTS, 0.9, batching)
    for place, made in enumerate(ROLLOUTS):
        set_advantage(made, (-1.0) ** place)
    chosen = objective(0.9, 0.2, 0.28, 0.1, "token-mean", 11)
    measures = update_policy(engine, ROLLOUTS, reference, chosen, batching, 1e-2)
    return measures, engine.model.state_dict()


def test_an_update_is_bit_for_bit_the_same_with_any_number_of_workers() -> None:
    alone, weights = updated(1)
    fresh = model().state_dict()
    assert any(not torch.equal(weights[name], fresh[name]) for name in weights)
    for workers in (2, 3):
        measures, others = updated(workers)
        assert measures == alone
        for name, weight in weights.items():
            assert torch.equal(others[name], weight), name


def test_samples_are_bit_for_bit_the_same_with_any_number_of_workers() -> None:
    policy = model()
    asked = [Request((5 + i % 6, 7), 1000 + i, i) for i in range(48)]

    def sample(workers: int) -> list[Any]:
        sampler = generator(policy, max_batch=8)
        sampler.workers = workers
        return list(sampler.generate(asked, SamplingParams(1.0, 1.0, 12)))

    alone = sample(1)
    assert len(alone) == 48
    assert len({tuple(s.token_ids) for s in alone}) > 20
    assert sample(3) == alone


def test_gradients_of_one_memory_are_added_to_each_of_their_parameters() -> None:
    # What autograd gives two parameters may be one tensor, or one number spread over all places.
    one, two = (torch.zeros(3, requires_grad=True) for _ in range(2))
    shared, own = torch.tensor(0.1).expand(3), set[int]()
    for part in (0.7, 0.2, 0.05):
        add_gradients([one, two], [shared, shared], own)
        add_gradients([one, two], [torch.full((3,), part), None], own)
    assert one.grad is not None
    assert two.grad is not None
    assert one.grad.tolist() == pytest.approx([1.25] * 3)
    assert two.grad.tolist() == pytest.approx([0.3] * 3)
    assert shared.tolist() == pytest.approx([0.1] * 3)
