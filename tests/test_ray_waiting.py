"""How long engines on a cluster are waited for, on a clock that jumps."""

from __future__ import annotations

import os
import queue
import socket
import time
from types import SimpleNamespace
from typing import Any

import pytest

from r1pipe.errors import StageError
from r1pipe.generate import ray_cluster, ray_waiting
from r1pipe.generate.ray_cluster import (
    OBJECT_STORE_BYTES,
    TRIES,
    RayCluster,
    last_line,
    store_bytes,
    unheard,
)
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


# ---- an address ----------------------------------------------------------------------------------


class Ray:
    """Stands for the module; `init` says how often it would have tried, and finds nobody."""

    exceptions = SimpleNamespace(RayError=OSError)

    def __init__(self) -> None:
        self.tries: list[str | None] = []

    def is_initialized(self) -> bool:
        return False

    def init(self, address: str, **_: Any) -> None:
        self.tries.append(os.environ.get(TRIES))
        raise ConnectionError(f"nobody at {address}")


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    made = Ray()
    monkeypatch.delenv(TRIES, raising=False)
    monkeypatch.setattr(ray_cluster, "import_ray", lambda: made)
    monkeypatch.setattr(ray_cluster, "use_own_token", lambda: None)
    monkeypatch.setattr(ray_cluster, "LISTEN_S", 0.6)
    return made


@pytest.mark.parametrize("is_told", [True, False], ids=["settings", "RAY_ADDRESS"])
def test_an_address_at_which_nobody_listens_is_told_before_ray_tries_it(
    ray: Ray, is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as bound:  # no one listens there, and no one else gets it
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379" if is_told else address)
        began = time.monotonic()
        with pytest.raises(
            StageError,
            match=rf"no Ray cluster answers at {address} \(.*refused.*\); start one with `ray"
            r" start --head`, or correct run\.generator\.address or RAY_ADDRESS",
        ):
            RayCluster(address if is_told else None, 1)
    assert ray.tries == []
    assert time.monotonic() - began < 10


def test_where_something_else_listens_ray_tries_once(
    ray: Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        for _ in range(2):
            with pytest.raises(StageError, match=rf"at {address} \(nobody at {address}\)"):
                RayCluster(address, 1)
            monkeypatch.setenv(TRIES, "7")
    assert ray.tries == ["1", "7"]
    monkeypatch.delenv(TRIES)
    with pytest.raises(StageError, match=r"at local \("):
        RayCluster("local", 1)
    assert ray.tries[2:] == [None], "a cluster that is started here has its time"


def test_a_cluster_that_begins_to_listen_late_is_waited_for() -> None:
    def late(moment: float) -> None:
        naps.append(moment)
        server.listen()

    naps: list[float] = []
    with socket.socket() as server, pytest.MonkeyPatch.context() as patch:
        server.bind(("127.0.0.1", 0))
        patch.setattr(ray_cluster, "sleep", late)
        assert unheard(f"127.0.0.1:{server.getsockname()[1]}", 30.0) is None
    assert len(naps) == 1


def test_what_is_no_host_and_port_is_left_to_ray() -> None:
    assert unheard("auto", 0.0) is None
    assert unheard("nonsense", 0.0) is None
    assert unheard("127.0.0.1:99999", 0.0) == "there is no port 99999"
