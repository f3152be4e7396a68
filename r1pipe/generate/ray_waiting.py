"""Waiting for engines on a cluster, which may have no place for them any more."""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from r1pipe.errors import StageError

if TYPE_CHECKING:
    from r1pipe.generate.ray_cluster import RayCluster

LOOK_EVERY_S = 5.0
T = TypeVar("T")


class Patience:
    """Bounds how long none of the engines may be up: at the start, and after deaths."""

    def __init__(
        self, cluster: RayCluster, bundles: Sequence[Mapping[str, float]], longest_s: float
    ) -> None:
        """`bundles` are what one engine asks for; time counts from now."""
        self.longest_s = longest_s
        self._cluster = cluster
        self._bundles = bundles
        self._last_up = monotonic()
        self._has_been_up = False

    def next_of(self, answers: queue.Queue[T], is_any_up: Callable[[], bool]) -> T:
        """Return the next answer of the engines.

        An engine that is up is waited for without limit: Ray tells when it dies. Raises StageError
        when none has been up for `longest_s` and none says anything.
        """
        while True:
            if is_any_up():
                self._last_up, self._has_been_up = monotonic(), True
            try:
                return answers.get(timeout=min(LOOK_EVERY_S, self.longest_s))
            except queue.Empty:
                if not is_any_up() and monotonic() - self._last_up >= self.longest_s:
                    raise StageError(self._none_is_up()) from None

    def _none_is_up(self) -> str:
        there = self._cluster.resources
        has = ", ".join(f"{there.get(kind, 0):g} {kind}" for kind in ("GPU", "CPU"))
        since = "has been up for" if self._has_been_up else "was up within"
        return (
            f"no engine {since} {self.longest_s:g} s (run.generator.start_timeout_s); each asks for"
            f" {list(self._bundles)}, and the nodes of the cluster at {self._cluster.address} have"
            f" {has} in all. `ray status` says what is free: start the nodes that are missing, or"
            " lower run.generator.data_parallel; the stage can be resumed"
        )
