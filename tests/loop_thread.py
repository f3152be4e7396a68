"""An event loop in a thread of its own, for servers that tests start."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager


@contextmanager
def loop_thread(start: Callable[[], Awaitable[None]]) -> Iterator[None]:
    """Run a loop from when `start` is done to the block's end, which cancels all its tasks."""
    ready, loop = threading.Event(), asyncio.new_event_loop()

    async def end() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def begin() -> None:
        await start()

    def run() -> None:
        loop.run_until_complete(begin())
        loop.call_soon(ready.set)
        loop.run_forever()
        loop.run_until_complete(end())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
