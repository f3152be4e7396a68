"""Rank 0 samples for all ranks: what each asks for and gets, with ranks as threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from test_launch import Store
from tiny import FakeContext, ScriptedGenerator

from r1pipe.errors import CommonError, Interrupted, R1PipeError, StageError
from r1pipe.generate.driven import Driven, Joined, followed
from r1pipe.generate.following import Followed
from r1pipe.generate.protocol import Request, Sampled, SamplingParams
from r1pipe.ranks import Ranks
from r1pipe.records import FinishReason

SAMPLING = SamplingParams(1.0, 1.0, 8)


class Engines(ScriptedGenerator):
    """Samples its request's seed, and is asked once; answers come in the reverse order."""

    def __init__(self) -> None:
        super().__init__({}, "chat")
        self.requests: list[Request] = []
        self.weights: list[tuple[str, int]] = []
        self.losses = ["engine 1 is lost"]

    def generate(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Sampled]:
        self.requests += requests
        for request in reversed(requests):
            reason = FinishReason.LENGTH if request.seed % 2 else FinishReason.STOP
            yield Sampled(request.index, [request.seed] * 2, [-0.1, request.seed / 3], reason)

    def load_weights(self, tensors: Any) -> None:
        self.weights += tensors


def on_ranks(size: int, folder: Path, work: Callable[[int, FakeContext], Any]) -> list[Any]:
    """Return what each rank's work returns, or the exception that it ends with."""
    store, told, everyone = Store(), [b""] * size, threading.Barrier(size, timeout=30)
    found = list[Any]([None] * size)

    def act(rank: int) -> None:
        def exchange(data: bytes) -> list[bytes]:
            told[rank] = data
            everyone.wait()
            of_ranks = list(told)
            everyone.wait()
            return of_ranks

        context = FakeContext(folder / str(rank))
        context.ranks = Ranks(rank, size, store, exchange)
        try:
            found[rank] = work(rank, context)
        except R1PipeError as error:
            found[rank] = error

    threads = [threading.Thread(target=act, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_each_rank_gets_its_completions_of_what_rank_0_samples_in_order(tmp_path: Path) -> None:
    engines = Engines()
    asked = [
        [Request((5, 6), 2**62 + 1, 0), Request((7,), 4, 1)],
        [],
        [Request((8,), 6, 0), Request((8,), 9, 5)],
    ]

    def work(rank: int, context: FakeContext) -> Any:
        sampler = Driven(engines if rank == 0 else None, context)
        return list(followed(sampler, context).generate(asked[rank], SAMPLING)), sampler.losses

    found = on_ranks(3, tmp_path, work)
    assert [(each.prompt_ids, each.index) for each in engines.requests] == [
        ((5, 6), 0),
        ((7,), 1),
        ((8,), 2),
        ((8,), 3),
    ]
    assert [sorted(each.index for each in made) for made, _ in found] == [[0, 1], [], [0, 5]]
    for rank, (made, losses) in enumerate(found):
        seeds = {request.index: request.seed for request in asked[rank]}
        for each in made:
            seed = seeds[each.index]
            assert each.token_ids == [seed, seed], "of 63 bits too"
            assert each.logprobs == [-0.1, seed / 3], "to the last bit"
            expected = FinishReason.LENGTH if seed % 2 else FinishReason.STOP
            assert each.finish_reason is expected
        assert losses == (["engine 1 is lost"] if rank == 0 else [])


def test_weights_are_gathered_by_all_ranks_and_loaded_by_one(tmp_path: Path) -> None:
    engines, everyone = Engines(), threading.Barrier(2, timeout=30)

    def gathered() -> Iterator[tuple[str, int]]:
        for number in range(3):
            everyone.wait()  # as ranks gather a parameter together
            yield f"w{number}", number

    def work(rank: int, context: FakeContext) -> None:
        weights: Any = gathered()
        Driven(engines if rank == 0 else None, context).load_weights(weights)

    on_ranks(2, tmp_path, work)
    assert engines.weights == [("w0", 0), ("w1", 1), ("w2", 2)]


@pytest.mark.parametrize("error", [Interrupted("stopped by SIGTERM"), StageError("none is up")])
def test_what_ends_the_sampling_of_rank_0_ends_that_of_all(
    tmp_path: Path, error: R1PipeError
) -> None:
    class Stopped(Engines):
        def generate(
            self, requests: Sequence[Request], sampling: SamplingParams
        ) -> Iterator[Sampled]:
            raise error

    def work(rank: int, context: FakeContext) -> Any:
        sampler = Driven(Stopped() if rank == 0 else None, context)
        return list(sampler.generate([Request((1,), 1, 0)], SAMPLING))

    found = on_ranks(2, tmp_path, work)
    assert [str(each) for each in found] == [str(error)] * 2
    kind = Interrupted if isinstance(error, Interrupted) else CommonError
    assert [type(each) for each in found] == [kind] * 2


def test_neighbours_are_given_the_same_in_the_same_order_and_each_has_its_own(
    tmp_path: Path,
) -> None:
    asked = [
        [Request((5,), 11, 0)],
        [Request((6,), 12, 0), Request((7,), 13, 1)],
        [],
        [Request((8,), 14, 3)],
    ]
    engines = [Engines() for _ in asked]

    def work(rank: int, context: FakeContext) -> Any:
        sampler = Joined(engines[rank], context, 2)
        return [(s.index, s.token_ids[0]) for s in sampler.generate(asked[rank], SAMPLING)]

    found = on_ranks(4, tmp_path, work)
    assert [sorted(each) for each in found] == [[(0, 11)], [(0, 12), (1, 13)], [], [(3, 14)]]
    given = [[(r.prompt_ids, r.seed, r.index) for r in each.requests] for each in engines]
    assert given[0] == given[1] == [((5,), 11, 0), ((6,), 12, 1), ((7,), 13, 2)]
    assert given[2] == given[3] == [((8,), 14, 0)]


def test_a_stop_is_seen_by_all_parts_of_an_engine_before_they_begin(tmp_path: Path) -> None:
    class Asked(FakeContext):
        def interruptible(self) -> Any:
            raise Interrupted("stopped by SIGTERM")

    def work(rank: int, context: FakeContext) -> Any:
        if rank == 0:
            ranks, context = context.ranks, Asked(tmp_path / "asked")
            context.ranks = ranks
        return list(Joined(Engines(), context, 2).generate([Request((1,), 1, 0)], SAMPLING))

    assert list(map(str, on_ranks(2, tmp_path, work))) == ["stopped by SIGTERM"] * 2


def test_a_generator_that_is_not_driven_is_followed_as_ever(tmp_path: Path) -> None:
    context = FakeContext(tmp_path)
    assert isinstance(followed(Engines(), context), Followed)
    driven = Driven(None, context)
    assert followed(driven, context) is driven
    joined = Joined(Engines(), context, 2)
    assert followed(joined, context) is joined
