"""How the weights of a policy in training come to engines on a Ray cluster.

Through Ray's object store, from which a node fetches them once: an engine loads them before its
next batch, in its own time, and one that was started again has them too. Or by a broadcast, in
which all engines that are up take part: the shortest way between GPUs, over NCCL.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from time import monotonic, sleep
from typing import Protocol

import torch

from r1pipe.errors import StageError
from r1pipe.generate.protocol import Weights
from r1pipe.generate.ray_policy_actor import Joined, Pushed, Received
from r1pipe.generate.ray_policy_engines import Heard, PolicyEngine, PolicyEngines
from r1pipe.generate.weight_group import SENDER, BrokenGroupError, WeightGroup, host_meeting
from r1pipe.generate.weights import in_parts

PART_BYTES = 64 << 20
"""Of the weights, put into the object store together."""
WAIT_S = 0.02
TOLD_WITHIN_S = 5.0
"""Of the death of an engine, by Ray."""
PUSHING = -1
"""The number of calls that have to do with a push."""


class LostEngineError(BrokenGroupError):
    """An engine died during a push, which others then break off."""


class Pushes(Protocol):
    """A way for weights."""

    pushed: Pushed | None
    """The last weights, as an engine is told of them."""
    num_bytes: int
    """Of the last push."""

    def push(self, tensors: Weights) -> None:
        """Give the engines other weights."""

    def reached(self, engine: PolicyEngine) -> bool:
        """Return whether an engine that is up has the last weights, or can get them."""

    def close(self) -> None:
        """Free what pushes need."""


class StoredPushes:
    """Through the object store."""

    def __init__(self, engines: PolicyEngines) -> None:
        self.pushed: Pushed | None = None
        self.num_bytes = 0
        self._put = engines.cluster.ray.put
        self._number = 0

    def push(self, tensors: Weights) -> None:
        """Put the weights where engines take them from before their next batch."""
        parts = []
        self.pushed = None  # the store need not hold both
        self._number += 1
        self.num_bytes = 0
        for part in stored(tensors):
            parts.append(self._put(part))
            self.num_bytes += len(part)
        self.pushed = Pushed(self._number, parts)

    def reached(self, engine: PolicyEngine) -> bool:
        """Return True: an engine fetches them itself."""
        return True

    def close(self) -> None:
        """Leave the objects to Ray."""


class BroadcastPushes:
    """From the trainer's device to those of all engines that are up, at once."""

    def __init__(self, engines: PolicyEngines, device: str) -> None:
        """`device` is the trainer's. Raises StageError where engines cannot reach it."""
        if engines.cluster.is_remote:
            raise StageError(
                "run.generator.weight_transfer: engines cannot reach a trainer that is on none of"
                " the cluster's nodes (ray://); leave it out, or run on one of them"
            )
        self.pushed: Pushed | None = None
        self.num_bytes = 0
        self._engines = engines
        self._device = torch.device(device)
        self._group: WeightGroup | None = None
        self._members: dict[int, object] = {}
        """Number of an engine in the group -> its actor."""
        self._left = 0
        """Members that have not answered yet."""

    def push(self, tensors: Weights) -> None:
        """Send the weights to the engines that are up; the first time, to all that come up in time.

        Raises StageError if one of them dies meanwhile: some of its weights are the new ones.
        """
        if self.pushed is None:
            self._wait_for_all()
        while self._engines.look() is not None:
            pass  # some may have come up, or been lost
        number = 1 if self.pushed is None else self.pushed.number + 1
        try:
            self._meet()
            self._send(tensors, number)
        except BrokenGroupError as error:
            raise StageError(
                f"weights on their way to the engines: {self._reason(error)}; what was trained so"
                " far is saved, and the stage can be resumed. With run.generator.weight_transfer:"
                " object_store a stage goes on when an engine dies"
            ) from error
        finally:
            if self._left:
                self.close()
        self.pushed = Pushed(number, None)

    def reached(self, engine: PolicyEngine) -> bool:
        """Return whether an engine took part in the last push."""
        return self.pushed is None or engine.received == self.pushed.number

    def close(self) -> None:
        """End the group."""
        if self._group is not None:
            self._group.break_off()
        self._group, self._left = None, 0

    def _wait_for_all(self) -> None:
        """Wait until all engines are up, no longer than one may take."""
        end = monotonic() + self._engines.settings.start_timeout_s
        while self._engines.starting() and monotonic() < end:
            if self._engines.look() is None:
                sleep(WAIT_S)

    def _meet(self) -> None:
        """Have a group of the engines that are up, where they are others than in the last."""
        up = self._engines.up()
        if self._group is not None and self._members == {e.number: e.actor for e in up}:
            return
        self.close()
        sizes = [engine.num_receivers for engine in up]
        meeting, store = host_meeting(self._engines.cluster.own_host, 1 + sum(sizes))
        self._members, self._left = {engine.number: engine.actor for engine in up}, len(up)
        for engine, first in zip(up, accumulate(sizes, initial=1), strict=False):
            self._engines.ask(engine, PUSHING, engine.actor.join.remote(meeting, first))
        self._group = WeightGroup(meeting, SENDER, self._device, store, self._look)
        self._hear_all()

    def _send(self, tensors: Weights, number: int) -> None:
        """Have all members receive what this process sends."""
        assert self._group is not None, "engines meet first"
        members = [engine for engine in self._engines.up() if engine.number in self._members]
        self._left = len(members)
        for engine in members:
            self._engines.ask(engine, PUSHING, engine.actor.receive.remote(number))
        self.num_bytes = self._group.send(tensors)
        self._hear_all()
        for engine in members:
            engine.received = number

    def _reason(self, error: BrokenGroupError) -> str:
        """Return which member is lost: others may notice it before Ray tells."""
        end = monotonic() + TOLD_WITHIN_S
        while not isinstance(error, LostEngineError) and monotonic() < end:
            try:
                self._look()
            except LostEngineError as loss:
                error = loss
            except BrokenGroupError:
                pass  # another one that has noticed it
            sleep(WAIT_S)
        return str(error)

    def _look(self) -> None:
        """Take what engines have said; raise BrokenGroupError if a member is lost."""
        while (heard := self._engines.look()) is not None:
            self._take(heard)

    def _hear_all(self) -> None:
        """Wait until all members have answered."""
        while self._left:
            self._take(self._engines.wait())

    def _take(self, heard: Heard) -> None:
        if heard.found is None and heard.engine.number in self._members:
            kind = BrokenGroupError if heard.has_broken_off else LostEngineError
            raise kind(self._engines.last_loss)
        self._left -= isinstance(heard.found, Joined | Received)


def stored(tensors: Weights) -> Iterator[bytes]:
    """Yield weights as files of safetensors of a bounded size."""
    from safetensors.torch import save

    for part in in_parts(tensors, PART_BYTES):
        yield save(part)
        part.clear()
