"""Weights that one process broadcasts to many: over NCCL between GPUs, over gloo between CPUs.

The tensors of a part are one buffer and one collective. What is in it, the end of a push, and that
somebody has broken off are told through the store where members have met: nobody needs names and
shapes before the first. Whoever waits looks again and again whether to go on, so that the death of
a member ends the push for all, and nobody waits inside of NCCL for ever.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from threading import Thread
from time import monotonic, sleep
from typing import Any

import torch
from torch import Tensor

from r1pipe.generate.protocol import Weights

dist: Any = torch.distributed
"""Whose types do not have all that is used here."""

PART_BYTES = 256 << 20
"""Of a buffer; a larger tensor has one of its own."""
ALIGNMENT = 16
"""Bytes, of a tensor inside a buffer: of the widest type."""
POLL_S = 0.0005
LOOK_EVERY_S = 0.25
STORE_TIMEOUT = timedelta(seconds=60)
PART_TIMEOUT = timedelta(minutes=5)
"""Longest time for a part. In gloo nothing else ends it: a member that is left alone in a part, and
whoever frees its group, waits as long."""
SENDER = 0
BROKEN = "broken"


class BrokenGroupError(Exception):
    """A member broke off, or is no more: nothing can be sent in this group again."""


@dataclass(frozen=True)
class Meeting:
    """Where the members of a group find each other."""

    host: str
    port: int
    size: int
    """Members: the sender, which is rank 0, and all that receive."""


def no_look() -> None:
    """Have nothing to look for."""


class WeightGroup:
    """One member of a group; the first one sends."""

    def __init__(
        self,
        meeting: Meeting,
        rank: int,
        device: torch.device,
        store: Any = None,
        look: Callable[[], None] = no_look,
    ) -> None:
        """Wait for all members. `look` is called meanwhile, and while anything is sent: what it
        raises breaks off for all. `store` is the sender's, of `host_meeting`.

        Raises BrokenGroupError if another member breaks off.
        """
        self.meeting, self.rank, self.device = meeting, rank, device
        self._look, self._looked, self._num_pushes = look, monotonic(), 0
        self._group: Any = None
        self._store = store or joined_store(meeting)
        self._store.set(f"member/{rank}", "")
        members = [f"member/{other}" for other in range(meeting.size)]
        self._wait(lambda: bool(self._store.check(members)), LOOK_EVERY_S / 5)
        made: Future[Any] = Future()
        Thread(target=self._make, args=(made,), name="weights", daemon=True).start()
        self._wait(made.done, POLL_S)
        try:
            self._group = made.result()
        except RuntimeError as error:  # of a member that died meanwhile
            raise BrokenGroupError(str(error)) from error

    def _make(self, made: Future[Any]) -> None:
        """Make the process group in a thread: nothing ends a wait for a member inside of it."""
        try:
            made.set_result(self._connected())
        except Exception as error:  # noqa: BLE001 - it is raised where the group is waited for
            made.set_exception(error)

    def _connected(self) -> Any:
        """Return the group when a byte has gone through it: NCCL meets no sooner."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # of this thread
        group = process_group(self._store, self.rank, self.meeting.size, self.device)
        first = group.broadcast(
            [torch.zeros(1, dtype=torch.uint8, device=self.device)], from_sender()
        )
        while not first.is_completed():
            sleep(POLL_S)
        first.wait()
        return group

    def send(self, tensors: Weights) -> int:
        """Give tensors to all other members, which call `receive`; return their bytes."""
        self._num_pushes += 1
        number = num_bytes = 0
        for entries, buffer in in_buffers(tensors, self.device):
            self._tell(number, entries)
            self._broadcast(buffer)
            number += 1
            num_bytes += buffer.numel()
        self._tell(number, [])
        return num_bytes

    def receive(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors of a push; each is valid until the next is asked for."""
        self._num_pushes += 1
        for number in count():
            entries = json.loads(self._told(number))
            if not entries:
                return
            *_, last = entries
            buffer = torch.empty(last["end"], dtype=torch.uint8, device=self.device)
            self._broadcast(buffer)
            for entry in entries:
                yield entry["name"], seen_as(buffer, entry)

    def break_off(self) -> None:
        """End the group for all members, whatever they wait for."""
        with suppress(RuntimeError):  # the sender, which has the store, is no more
            self._store.set(BROKEN, "")
        self.close()

    def close(self) -> None:
        """Leave the group, which all do."""
        group, self._group = self._group, None
        if group is not None:
            group.abort()

    def _broadcast(self, buffer: Tensor) -> None:
        work = self._group.broadcast([buffer], from_sender())
        self._wait(work.is_completed, POLL_S)
        try:
            work.wait()
        except RuntimeError as error:
            raise BrokenGroupError(str(error)) from error

    def _tell(self, number: int, entries: list[dict[str, Any]]) -> None:
        """Say what part comes next; what was said in the last push is forgotten."""
        self._store.set(self._key(number), json.dumps(entries))
        self._store.delete_key(f"{self._num_pushes - 1}/{number}")

    def _told(self, number: int) -> bytes:
        key = self._key(number)

        def is_told() -> bool:
            try:
                self._store.wait([key], timedelta(seconds=LOOK_EVERY_S))
            except dist.DistStoreError:
                return False
            return True

        self._wait(is_told, 0)
        told: bytes = self._store.get(key)
        return told

    def _key(self, number: int) -> str:
        return f"{self._num_pushes}/{number}"

    def _look_out(self) -> None:
        """Look whether to go on; if not, nobody does."""
        try:
            self._look()
        except BaseException:
            self.break_off()
            raise

    def _wait(self, is_done: Callable[[], bool], poll_s: float) -> None:
        """Wait, as long as nobody breaks off and `look` raises nothing."""
        try:
            while not is_done():
                if monotonic() - self._looked >= LOOK_EVERY_S:
                    self._looked = monotonic()
                    if self._store.check([BROKEN]):
                        raise BrokenGroupError("another member broke off")
                    self._look_out()
                sleep(poll_s)
        except dist.DistNetworkError as error:
            raise BrokenGroupError(f"the sender is no more ({error})") from error


def host_meeting(host: str, size: int) -> tuple[Meeting, Any]:
    """Return a place to meet on this machine, whose address for others is `host`, and its store."""
    here, options = "127.0.0.1", {"wait_for_workers": False, "timeout": STORE_TIMEOUT}
    store = dist.TCPStore(here, 0, None, is_master=True, **options)
    return Meeting(host, store.port, size), store


def joined_store(meeting: Meeting) -> Any:
    """Return the store of a meeting on another machine, or in another process."""
    return dist.TCPStore(meeting.host, meeting.port, None, is_master=False, timeout=STORE_TIMEOUT)


def process_group(store: Any, rank: int, size: int, device: torch.device) -> Any:
    """Return a process group that has nothing to do with those of a trainer or an engine."""
    kind = dist.ProcessGroupNCCL if device.type == "cuda" else dist.ProcessGroupGloo
    return kind(store, rank, size, PART_TIMEOUT)


def from_sender() -> Any:
    """Return the options of a broadcast."""
    options = dist.BroadcastOptions()
    options.rootRank = SENDER
    return options


def in_buffers(
    tensors: Weights, device: torch.device
) -> Iterator[tuple[list[dict[str, Any]], Tensor]]:
    """Yield tensors as bytes on a device, many together, and what is where in them.

    A buffer is valid until the next is asked for. Tensors are copied as they come.
    """
    buffer = torch.empty(0, dtype=torch.uint8, device=device)
    entries: list[dict[str, Any]] = []
    used = 0
    for name, tensor in tensors:
        if entries and used + tensor.nbytes > buffer.numel():
            yield entries, buffer[:used]
            entries, used = [], 0
        if tensor.nbytes > buffer.numel() or not buffer.numel():
            room = max(PART_BYTES, -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT)
            buffer = torch.empty(room, dtype=torch.uint8, device=device)
        end = used + -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        entry = {
            "name": name,
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            "start": used,
            "end": end,
        }
        seen_as(buffer, entry).copy_(tensor.detach())
        entries.append(entry)
        used = end
    if entries:
        yield entries, buffer[:used]


def seen_as(buffer: Tensor, entry: dict[str, Any]) -> Tensor:
    """Return one tensor of a buffer."""
    dtype, shape = getattr(torch, entry["dtype"]), entry["shape"]
    num_bytes = dtype.itemsize * torch.Size(shape).numel()
    return buffer[entry["start"] : entry["start"] + num_bytes].view(dtype).view(shape)
