"""Commands side by side, one core each; those of one seed one after the other.

Most stages of a finding are too small to keep two cores busy, and a seed's findings share stages,
so seeds run beside each other and a seed's findings do not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")


def usable_cores() -> list[int]:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def side_by_side(
    seeds: Sequence[int],
    minutes: Mapping[str, float],
    run: Callable[[str, int], T],
    cores: Sequence[int],
) -> dict[tuple[str, int], T]:
    """Run every finding of `minutes` (name -> its length) with every seed, one command a core.

    A core that is free takes the next finding of the seed with the most minutes left, of those
    that none is busy with. With one core nothing is pinned. The first error is raised when the
    commands that run beside it have ended, and nothing more is begun.
    """
    left = {seed: list(minutes) for seed in seeds}
    free, done = list(cores), dict[tuple[str, int], T]()
    running = dict[Future[T], tuple[str, int, int]]()
    with ThreadPoolExecutor(len(cores)) as pool:
        while running or any(left.values()):
            idle = {seed: names for seed, names in left.items() if names}
            for _, seed, _ in running.values():
                idle.pop(seed, None)
            while free and idle:
                seed = max(idle, key=lambda each: sum(minutes[name] for name in left[each]))
                name, core = idle.pop(seed).pop(0), free.pop(0)
                begun = pool.submit(_on_core, core if len(cores) > 1 else None, run, name, seed)
                running[begun] = name, seed, core
            for ended in wait(running, return_when=FIRST_COMPLETED).done:
                name, seed, core = running.pop(ended)
                free.append(core)
                done[name, seed] = ended.result()
    return done


def _on_core(core: int | None, run: Callable[[str, int], T], name: str, seed: int) -> T:
    """Run it; this thread, and what it starts, stay on one core."""
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    return run(name, seed)
