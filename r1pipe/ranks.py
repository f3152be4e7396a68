"""The processes of one stage: the share of each in the work, and what all must agree on.

Every rank runs the same `run(context, params, run, inputs)`. Data, orders and seeds are functions
of the parameters, so ranks need to tell one another little: what rank 0 decides (whether to save,
where to resume), and what each one sampled. Messages are JSON in a key-value store at rank 0.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

T = TypeVar("T")
Launcher = Literal["local", "deepspeed", "slurm", "torchrun"]


@dataclass(frozen=True)
class Launch:
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

    def delete_key(self, key: str) -> bool:
        """Forget a value."""


class Ranks:
    """This process among those of its stage. All ranks call the same methods in the same order."""

    def __init__(self, rank: int = 0, size: int = 1, store: KeyValues | None = None) -> None:
        assert size == 1 or store is not None, "several ranks need a store"
        self.rank = rank
        self.size = size
        self._store = store
        self._calls = 0
        self._gathered: str | None = None

    @property
    def is_main(self) -> bool:
        """Return whether this rank logs, decides and writes."""
        return self.rank == 0

    def agree(self, value: T) -> T:
        """Return rank 0's JSON value on every rank."""
        if self._store is None:
            return value
        key = self._next("agree")
        if self.is_main:
            self._store.set(key, json.dumps(value))
            return value
        agreed: T = json.loads(self._store.get(key))
        return agreed

    def gather(self, value: T) -> list[T]:
        """Return the JSON values of all ranks, by rank, on every rank."""
        if self._store is None:
            return [value]
        key = self._next("gather")
        mine = f"{key}:{self.rank}"
        self._store.set(mine, json.dumps(value))
        values = [json.loads(self._store.get(f"{key}:{rank}")) for rank in range(self.size)]
        if self._gathered is not None:  # every rank is here, so every rank has read the last one
            self._store.delete_key(self._gathered)
        self._gathered = mine
        return values

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.gather(None)

    def share(self, items: Sequence[T], whole: int = 1) -> list[T]:
        """Return this rank's share of a list: shares are contiguous, and joined they are the list.

        Runs of `whole` items stay together.
        """
        count = len(items) // whole
        first, last = (count * r // self.size * whole for r in (self.rank, self.rank + 1))
        return list(items[first:last])

    def _next(self, what: str) -> str:
        self._calls += 1
        return f"{what}:{self._calls}"


ALONE = Ranks()
"""The one rank of a stage that runs in the pipeline's own process."""
