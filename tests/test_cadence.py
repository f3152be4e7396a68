"""When checkpoints are due, with a clock of the test's own."""

from __future__ import annotations

import time

import pytest

from r1pipe.launch.cadence import Cadence


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(time, "monotonic", found)
    return found


def test_a_cheap_checkpoint_is_due_by_the_clock(clock: Clock) -> None:
    cadence = Cadence(30.0)
    assert not cadence.is_due
    clock.now += 30.0
    assert cadence.is_due
    cadence.saved(1.0)
    clock.now += 29.0
    assert not cadence.is_due
    clock.now += 1.0
    assert cadence.is_due


def test_a_dear_checkpoint_takes_a_twentieth_of_the_time(clock: Clock) -> None:
    cadence, spent, start = Cadence(30.0), 0.0, clock.now
    while clock.now - start < 100_000.0:
        clock.now += 1.0
        if cadence.is_due:
            clock.now += 25.0  # of a 7B model
            spent += 25.0
            cadence.saved(25.0)
    assert 0.04 < spent / (clock.now - start) <= 0.05 + 25.0 / 100_000.0


def test_every_step_is_saved_if_that_is_asked_for(clock: Clock) -> None:
    cadence = Cadence(0.0)
    assert cadence.is_due
    cadence.saved(25.0)
    assert cadence.is_due
