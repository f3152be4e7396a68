"""The processes of one stage: the share of each in the work, and what all must agree on.

Every rank runs the same `run(context, params, run, inputs)`. Data, orders and seeds are functions
of the parameters, so ranks need to tell one another little: what rank 0 decides (whether to save,
where to resume), and what each one sampled. What rank 0 decides is JSON in a key-value store, whose
connections break at messages of some 8 MiB; what all tell all goes over their process group.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol, TypeVar

T = TypeVar("T")
Launcher = Literal["local", "deepspeed", "slurm", "torchrun"]


class Launch(NamedTuple):
    """The processes that a stage asks for."""

    num_processes: int
    """On all nodes together."""
    launcher: Launcher | None = None
    """What starts them; default: chosen by the environment."""
    hostfile: str | None = None
    """Nodes and their slots, one `name slots=8` a line, for the `deepspeed` launcher."""


class KeyValues(Protocol):
    """A store of torch.distributed; `get` waits until the key is there."""

    def set(self, key: str, value: str) -> None:
        """Put a value where every rank can read it."""

    def get(self, key: str) -> bytes:
        """Return a value, as soon as some rank has put it."""


Exchange = Callable[[bytes], list[bytes]]
"""Give every rank's bytes, of any length, to every rank, by rank."""


class Ranks:
    """This process among those of its stage. All ranks call the same methods in the same order."""

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        store: KeyValues | None = None,
        exchange: Exchange | None = None,
    ) -> None:
        assert size == 1 or store is not None, "several ranks need a store"
        self.rank = rank
        self.size = size
        self._store = store
        self._exchange = exchange
        self._calls = 0

    @property
    def is_main(self) -> bool:
        """Return whether this rank logs, decides and writes."""
        return self.rank == 0

    def agree(self, value: T) -> T:
        """Return rank 0's JSON value on every rank."""
        if self._store is None:
            return value
        self._calls += 1
        key = f"agree:{self._calls}"
        if self.is_main:
            self._store.set(key, json.dumps(value))
            return value
        agreed: T = json.loads(self._store.get(key))
        return agreed

    def gather(self, value: T) -> list[T]:
        """Return the JSON values of all ranks, by rank, on every rank."""
        return [json.loads(each) for each in self.exchange(json.dumps(value).encode())]

    def exchange(self, data: bytes) -> list[bytes]:
        """Return the bytes of all ranks, by rank, on every rank; a rank's may be many MiB."""
        if self.size == 1:
            return [data]
        assert self._exchange is not None, "several ranks need a process group"
        return self._exchange(data)

    def share(self, items: Sequence[T], whole: int = 1) -> list[T]:
        """Return this rank's share of a list: shares are contiguous, and joined they are the list.

        Runs of `whole` items stay together.
        """
        count = len(items) // whole
        first, last = (count * r // self.size * whole for r in (self.rank, self.rank + 1))
        return list(items[first:last])


ALONE = Ranks()
"""The one rank of a stage that runs in the pipeline's own process."""
