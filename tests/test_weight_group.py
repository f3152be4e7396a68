"""Weights broadcast over gloo: any tensors, to any number, with the death of any member."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from killing import KILLED, call
from torch import Tensor

from r1pipe.generate import weight_group
from r1pipe.generate.weight_group import (
    ALIGNMENT,
    BrokenGroupError,
    Meeting,
    WeightGroup,
    host_meeting,
    in_buffers,
    seen_as,
)

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool]
SHAPES: list[tuple[int, ...]] = [(), (1,), (3, 5), (0,), (7, 1, 2), (33,)]


def tensors(seed: int = 0) -> dict[str, Tensor]:
    """Return tensors of all types and shapes, also of none and of a part of another one."""
    generator = torch.Generator().manual_seed(seed)
    found = {
        f"{dtype}.{shape}": torch.randn(shape, generator=generator).mul(9).to(dtype)
        for dtype in DTYPES
        for shape in SHAPES
    }
    return found | {"of another": torch.randn(6, 8, generator=generator).t()[2:5]}


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    """Return whether tensors are the same in order, type, shape and value."""
    return list(found) == list(wanted) and all(
        each.dtype == wanted[name].dtype
        and each.shape == wanted[name].shape
        and torch.equal(each, wanted[name])
        for name, each in found.items()
    )


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadPoolExecutor]:
    monkeypatch.setattr(weight_group, "PART_TIMEOUT", timedelta(seconds=3))
    with ThreadPoolExecutor() as pool:
        yield pool


def received(group: WeightGroup) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in group.receive()}


def group_of(
    threads: ThreadPoolExecutor, size: int, **sender: Any
) -> tuple[WeightGroup, list[WeightGroup]]:
    """Return the sender and those who receive, which have met."""
    meeting, store = host_meeting("127.0.0.1", size)
    others = [threads.submit(WeightGroup, meeting, rank, CPU) for rank in range(1, size)]
    sending = WeightGroup(meeting, 0, CPU, store, **sender)
    return sending, [other.result() for other in others]


@pytest.mark.parametrize("part_bytes", [64, 128 << 20])
def test_every_member_gets_what_was_sent_push_after_push(
    threads: ThreadPoolExecutor, part_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_group, "PART_BYTES", part_bytes)
    sender, others = group_of(threads, 4)
    for seed in range(3):
        sent = tensors(seed)
        waiting = [threads.submit(received, other) for other in others]
        assert sender.send(sent.items()) >= sum(each.nbytes for each in sent.values())
        assert all(same(each.result(), sent) for each in waiting)
    waiting = [threads.submit(received, other) for other in others]
    assert sender.send([]) == 0
    assert [each.result() for each in waiting] == [{}] * 3


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 200), max_size=30), st.integers(1, 12))
def test_buffers_hold_all_tensors_aligned_and_are_of_a_bounded_size(
    lengths: list[int], lines: int
) -> None:
    wanted = {str(i): torch.arange(length) + i for i, length in enumerate(lengths)}
    found, part_bytes = {}, lines * ALIGNMENT
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weight_group, "PART_BYTES", part_bytes)
        for entries, buffer in in_buffers(iter(wanted.items()), CPU):
            assert buffer.numel() == entries[-1]["end"]
            largest = max(each["end"] - each["start"] for each in entries)
            assert buffer.numel() <= max(part_bytes, largest) or len(entries) > 1
            assert all(each["start"] % ALIGNMENT == 0 for each in entries)
            found.update({each["name"]: seen_as(buffer, each).clone() for each in entries})
    assert same(found, wanted)


def test_a_tensor_is_copied_before_the_next_is_asked_for(threads: ThreadPoolExecutor) -> None:
    """A trainer may give each in the memory of the last one."""
    own = torch.zeros(3)

    def gathered() -> Iterator[tuple[str, Tensor]]:
        for number in range(4):
            yield str(number), own.fill_(number)

    sender, (other,) = group_of(threads, 2)
    waiting = threads.submit(received, other)
    sender.send(gathered())
    assert [each.tolist() for each in waiting.result().values()] == [[i] * 3 for i in range(4)]


def ends_in_the_middle(meeting: Meeting) -> None:
    """Be a member that dies when it has the first tensor of a push."""
    group = WeightGroup(meeting, 2, CPU)
    for _ in group.receive():
        os.kill(os.getpid(), 9)


def test_the_death_of_a_member_ends_the_push_for_all(threads: ThreadPoolExecutor) -> None:
    meeting, store = host_meeting("127.0.0.1", 3)
    dying = threads.submit(call, lambda: ends_in_the_middle(meeting))
    other = threads.submit(WeightGroup, meeting, 1, CPU)

    def look() -> None:
        if dying.done():
            raise BrokenGroupError("a member is dead")

    sender = WeightGroup(meeting, 0, CPU, store, look)
    waiting = threads.submit(received, other.result())

    def endless() -> Iterator[tuple[str, Tensor]]:
        while True:
            yield "w", torch.zeros(weight_group.PART_BYTES // 4)

    with pytest.raises(BrokenGroupError):
        sender.send(endless())
    sender.break_off()
    assert dying.result() == KILLED
    with pytest.raises(BrokenGroupError):
        waiting.result()


@pytest.mark.parametrize("has_met", [False, True])
def test_who_waits_for_a_member_that_never_comes_is_told(
    threads: ThreadPoolExecutor, has_met: bool
) -> None:
    """Whether it is to join, or to take part in a push."""

    def look() -> None:
        if is_over:
            raise BrokenGroupError("it will never come")

    is_over = False
    if has_met:
        sender, _ = group_of(threads, 2, look=look)
        is_over = True
        waits: Callable[[], object] = lambda: sender.send([("w", torch.zeros(1 << 25))])  # noqa: E731
    else:
        meeting, store = host_meeting("127.0.0.1", 2)
        is_over = True
        waits = lambda: WeightGroup(meeting, 0, CPU, store, look)  # noqa: E731
    with pytest.raises(BrokenGroupError, match="it will never come"):
        waits()


def test_what_a_look_raises_breaks_off_for_all(threads: ThreadPoolExecutor) -> None:
    """Also for those who have come, while the others are still waited for."""
    meeting, store = host_meeting("127.0.0.1", 3)
    waiting = threads.submit(WeightGroup, meeting, 1, CPU)

    def look() -> None:
        raise BrokenGroupError("the third is dead")

    with pytest.raises(BrokenGroupError, match="the third is dead"):
        WeightGroup(meeting, 0, CPU, store, look)
    with pytest.raises(BrokenGroupError, match="another member broke off"):
        waiting.result(timeout=20)


def test_a_member_whose_sender_is_gone_is_told(threads: ThreadPoolExecutor) -> None:
    sender, (other,) = group_of(threads, 2)
    waiting = threads.submit(received, other)
    sender.break_off()
    with pytest.raises(BrokenGroupError):
        waiting.result()
