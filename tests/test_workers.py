"""Threads that share a step: order, bounds, errors, and results that do not depend on them."""

from __future__ import annotations

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
from r1pipe.train.engine import TorchEngine
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
