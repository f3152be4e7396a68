"""One stream of requests over several engines, on a simulated clock."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator

import pytest

from r1pipe.errors import StageError
from r1pipe.generate.protocol import Request, Sampled
from r1pipe.generate.scheduler import Answer, IsUp, Restarting, Scheduler, over_engines
from r1pipe.records import FinishReason

DEATH, UP = -1, -2
"""Events of an engine that are no completions."""


class Simulated:
    """Engines whose slots take a request's seed in steps; time is a number."""

    def __init__(
        self,
        num_engines: int,
        num_slots: int,
        dies: dict[int, float] | None = None,
        restart: float | None = None,
    ) -> None:
        """`dies` has the time at which an engine is lost; it is up again after `restart`, if it is
        started again at all."""
        self.num_slots, self.restart = num_slots, restart
        self.waiting: list[list[Request]] = [[] for _ in range(num_engines)]
        self.free = [num_slots] * num_engines
        self.now = self.busy = 0.0
        self.events: list[tuple[float, int, int]] = []
        self.dead: set[int] = set()
        self.moved: list[int] = []
        for engine, time in (dies or {}).items():
            heapq.heappush(self.events, (time, engine, DEATH))

    def send(self, engine: int, request: Request) -> None:
        self.waiting[engine].append(request)
        self._start(engine)

    def _start(self, engine: int) -> None:
        while self.free[engine] and self.waiting[engine]:
            request = self.waiting[engine].pop(0)
            self.free[engine] -= 1
            self.busy += request.seed
            heapq.heappush(self.events, (self.now + request.seed, engine, request.index))

    def answer(self) -> tuple[int, Answer]:
        while True:
            self.now, engine, index = heapq.heappop(self.events)
            if index == UP:
                self.dead.discard(engine)
                self.waiting[engine], self.free[engine] = [], self.num_slots
                return engine, IsUp()
            if index == DEATH:
                self.dead.add(engine)
                # what it had begun is never heard of
                self.events = [event for event in self.events if event[1] != engine]
                heapq.heapify(self.events)
                why = f"engine {engine} was killed"
                if self.restart is None:
                    return engine, StageError(why)
                heapq.heappush(self.events, (self.now + self.restart, engine, UP))
                return engine, Restarting(why)
            if engine not in self.dead:
                self.free[engine] += 1
                self._start(engine)
                return engine, Sampled(index, [1], [], FinishReason.STOP)

    def give_up(self, engine: int, why: Exception, num_moved: int) -> None:
        self.moved.append(num_moved)


def requests(count: int, seed: int = 1) -> Iterator[Request]:
    """Return requests in groups of 16 equal prompts, of log-normal lengths up to 32,768."""
    rng = random.Random(seed)
    for index in range(count):
        length = min(32_768, max(1, int(rng.lognormvariate(math.log(3000), 1.0))))
        yield Request((index // 16,), length, index)


def busy_share(num_engines: int, num_slots: int, count: int) -> float:
    engines = Simulated(num_engines, num_slots)
    found = list(over_engines(Scheduler([num_slots] * num_engines), engines, requests(count)))
    assert sorted(each.index for each in found) == list(range(count))
    return engines.busy / (engines.now * num_engines * num_slots)


def test_slots_stay_busy_on_four_and_on_64_engines() -> None:
    """What one engine of as many slots would reach is the bound of the last completions."""
    assert busy_share(4, 8, 6000) >= 0.95 * busy_share(1, 32, 6000)
    assert busy_share(64, 4, 12000) >= 0.90 * busy_share(1, 256, 12000)


def test_a_dead_engine_leaves_its_requests_to_the_others() -> None:
    engines = Simulated(3, 4, dies={1: 20_000.0})
    found = list(over_engines(Scheduler([4] * 3), engines, requests(200)))
    assert sorted(each.index for each in found) == list(range(200))
    assert engines.moved == [5], "four slots and one ahead"


def test_the_end_of_the_last_engine_is_an_error() -> None:
    engines = Simulated(2, 4, dies={0: 9_000.0, 1: 20_000.0})
    with pytest.raises(StageError, match="engine 1 was killed"):
        list(over_engines(Scheduler([4] * 2), engines, requests(200)))


def test_an_engine_that_is_started_again_takes_requests_again() -> None:
    engines = Simulated(2, 4, dies={1: 20_000.0}, restart=9_000.0)
    sent: list[tuple[float, int]] = []
    send = engines.send

    def noted(engine: int, request: Request) -> None:
        sent.append((engines.now, engine))
        send(engine, request)

    engines.send = noted  # type: ignore[method-assign]
    found = list(over_engines(Scheduler([4] * 2), engines, requests(200)))
    assert sorted(each.index for each in found) == list(range(200))
    assert engines.moved == [5]
    times = [now for now, engine in sent if engine == 1]
    assert not [now for now in times if 20_000 <= now < 29_000]
    assert max(times) > 29_000


def test_the_only_engine_is_waited_for_while_it_is_started_again() -> None:
    engines = Simulated(1, 4, dies={0: 20_000.0}, restart=9_000.0)
    found = list(over_engines(Scheduler([4]), engines, requests(40)))
    assert sorted(each.index for each in found) == list(range(40))


def test_engines_that_are_not_up_yet_get_requests_when_they_are() -> None:
    engines, scheduler = Simulated(2, 4), Scheduler([4, 4])
    scheduler.alive, scheduler.starting = set(), {0, 1}
    for engine, time in ((0, 500.0), (1, 9_000.0)):
        heapq.heappush(engines.events, (time, engine, UP))
    found = list(over_engines(scheduler, engines, requests(200)))
    assert sorted(each.index for each in found) == list(range(200))
    assert scheduler.alive == {0, 1}


def test_requests_are_asked_for_again_after_a_completion() -> None:
    given = iter([*[Request((1,), 5, 0), None, Request((1,), 7, 1)]])
    engines = Simulated(1, 4)
    assert [each.index for each in over_engines(Scheduler([4]), engines, given)] == [0, 1]
    assert engines.now == 12


def test_equal_prompts_follow_one_another_to_one_engine() -> None:
    scheduler = Scheduler([8, 8])
    prompts = [1, 1, 1, 2, 2, 3]
    assert [scheduler.place(Request((p,), 0, i)) for i, p in enumerate(prompts)] == [
        0, 0, 0, 1, 1, 1
    ]  # fmt: skip
