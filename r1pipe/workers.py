"""Threads that share the work of one step on a CPU.

A small model's matrix products gain little from being split among threads; whole micro-batches and
whole sampling batches side by side gain nearly all. What a piece holds and the order in which
results are combined never depend on the number of workers, so neither do results.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

from r1pipe.machine import usable_cores

MAX_WORKERS = 4

Item = TypeVar("Item")
Result = TypeVar("Result")


def num_workers(requested: int | None, device: str) -> int:
    """Return how many threads share a step: one beside an accelerator, else one for each core that
    this process may use, at most four; a requested number is kept."""
    if not device.startswith("cpu"):
        return 1
    return requested or min(MAX_WORKERS, usable_cores())


def in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    abandon: Callable[[], None] = lambda: None,
    ahead: int | None = None,
) -> Generator[Result, None, None]:
    """Yield `function(item)` for every item, in their order, computed by `workers` threads.

    At most `ahead` items (by default two for each worker) are begun and not taken, so memory is
    bounded. The first error raised by `function` is raised here, after what had begun by then;
    `abandon` is called before that is waited for.
    """
    if workers == 1:
        yield from map(function, items)
        return
    waiting: deque[Future[Result]] = deque()
    ready: list[Result] = []  # none stays in this frame: it may be large
    threads = _pool(workers)
    try:
        for item in items:
            if len(waiting) == (ahead or 2 * workers):
                ready.append(waiting.popleft().result())
            waiting.append(threads.submit(function, item))
            if ready:
                yield ready.pop()
        while waiting:
            yield waiting.popleft().result()
    except BaseException:
        abandon()
        raise
    finally:
        for future in waiting:
            future.cancel()
        wait(waiting)


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    """Return the threads of this process: kept, since new ones would begin with no memory of their
    own and fault it in again at every step."""
    return ThreadPoolExecutor(workers, thread_name_prefix="worker")
