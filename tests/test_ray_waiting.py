"""How long engines on a cluster are waited for, on a clock that jumps."""

from __future__ import annotations

import queue
from types import SimpleNamespace
from typing import Any

import pytest

from r1pipe.errors import StageError
from r1pipe.generate import ray_waiting
from r1pipe.generate.ray_cluster import OBJECT_STORE_BYTES, last_line, store_bytes
from r1pipe.generate.ray_waiting import Patience

CLUSTER: Any = SimpleNamespace(address="10.0.0.1:6379", resources={"CPU": 4.0})


class Clock(queue.Queue[str]):
    """A queue on which every vain wait takes its whole time; `says` is heard at a time."""

    def __init__(self, says: dict[float, str]) -> None:
        super().__init__()
        self.now, self.says = 0.0, says

    def get(self, block: bool = True, timeout: float | None = None) -> str:
        assert timeout is not None, "a wait without limit"
        due = [at for at in self.says if at <= self.now + timeout]
        if not due:
            self.now += timeout
            raise queue.Empty
        self.now = max(self.now, min(due))
        return self.says.pop(min(due))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock({})
    monkeypatch.setattr(ray_waiting, "monotonic", lambda: made.now)
    return made


def test_engines_that_never_come_up_are_given_up_in_time(clock: Clock) -> None:
    patience = Patience(CLUSTER, [{"GPU": 2, "CPU": 1}], 60.0)
    with pytest.raises(
        StageError,
        match=r"no engine was up within 60 s \(run\.generator\.start_timeout_s\); each asks for"
        r" \[\{'GPU': 2, 'CPU': 1\}\], and the nodes of the cluster at 10\.0\.0\.1:6379 have 0 GPU,"
        r" 4 CPU in all\..* the stage can be resumed",
    ):
        patience.next_of(clock, lambda: False)
    assert clock.now == 60.0


def test_an_engine_that_is_up_is_waited_for_without_limit(clock: Clock) -> None:
    clock.says = {1e6: "sampled"}
    assert Patience(CLUSTER, [{"CPU": 1}], 60.0).next_of(clock, lambda: True) == "sampled"


def test_the_time_without_engines_counts_from_the_last_one_over_all_answers(clock: Clock) -> None:
    patience, is_up = Patience(CLUSTER, [{"CPU": 1}], 60.0), True
    clock.says = {1000.0: "died", 1040.0: "another one died"}
    assert patience.next_of(clock, lambda: is_up) == "died"
    is_up = False
    assert patience.next_of(clock, lambda: is_up) == "another one died"
    with pytest.raises(StageError, match="no engine has been up for 60 s"):
        patience.next_of(clock, lambda: is_up)
    assert 1055.0 <= clock.now <= 1060.0, "not 60 s more for every death"


def test_an_engine_that_came_up_again_gives_all_the_time_again(clock: Clock) -> None:
    patience, is_up = Patience(CLUSTER, [{"CPU": 1}], 60.0), False
    clock.says = {50.0: "up", 90.0: "died", 140.0: "up"}
    assert patience.next_of(clock, lambda: is_up) == "up"
    is_up = True
    assert patience.next_of(clock, lambda: is_up) == "died"
    is_up = False
    assert patience.next_of(clock, lambda: is_up) == "up"


def test_a_cluster_without_this_users_token_is_told() -> None:
    said = (
        "The actor died unexpectedly before finishing this task.\n\tclass_name: PolicyActor\n"
        "The actor is dead because all references to the actor were removed including lineage ref"
        " count.\nThe actor never ran - it was cancelled before it started running."
    )
    assert last_line(RuntimeError(said)).endswith(
        "or set RAY_AUTH_MODE=disabled where the cluster has none"
    )
    assert "RAY_AUTH" not in last_line(RuntimeError("The actor is dead because its node has died."))


def test_the_store_of_an_own_cluster_has_room_for_a_push_as_far_as_shared_memory_has() -> None:
    gib = 1 << 30
    assert store_bytes(0, 16 * gib) == OBJECT_STORE_BYTES
    assert store_bytes(2 * gib, 16 * gib) == OBJECT_STORE_BYTES + 2.5 * gib
    assert store_bytes(100 * gib, 5 * gib) == 4 * gib
    assert store_bytes(2 * gib, 64 << 20) == OBJECT_STORE_BYTES, "Ray's own least, beside a disk"
