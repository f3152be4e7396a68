"""A completions server that a test scripts, byte by byte, with the events it may send."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hostile_server import response
from loop_thread import loop_thread

EVENTS = response(200, b"", "Content-Type: text/event-stream; charset=utf-8", length="")
Send = Callable[[bytes], Awaitable[None]]
Says = Callable[[Send, dict[str, Any]], Awaitable[None]]
"""Answers one request for a completion; the connection is closed behind it."""


def event(text: str | None, reason: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "text": text, "finish_reason": reason, **more}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


class Server:
    """A server that a test scripts; `sent` counts bytes."""

    def __init__(self, says: Says, models: Sequence[str]) -> None:
        self.says = says
        self.models = models
        self.url = ""
        self.asked: list[dict[str, Any]] = []
        self.sent = 0
        self.is_left = threading.Event()
        """Whether somebody went before all was said."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def send(data: bytes) -> None:
            self.sent += len(data)
            writer.write(data)
            await writer.drain()

        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            if head.startswith("GET"):
                models = json.dumps({"data": [{"id": name} for name in self.models]}).encode()
                await send(response(200, models, "Connection: close"))
                return
            (size,) = [x for x in head.split("\r\n") if x.lower().startswith("content-length:")]
            body = json.loads(await reader.readexactly(int(size.partition(":")[2])))
            self.asked.append(body)
            await self.says(send, body)
        except (ConnectionError, asyncio.CancelledError):
            self.is_left.set()
        finally:
            writer.close()


def raw(*pieces: bytes, every_s: float = 0.0) -> Says:
    """Send pieces one after the other."""

    async def says(send: Send, body: dict[str, Any]) -> None:
        for piece in pieces:
            await send(piece)
            await asyncio.sleep(every_s)

    return says


def again(piece: bytes, first: bytes = EVENTS, every_s: float = 0.0) -> Says:
    """Send a piece without end."""

    async def says(send: Send, body: dict[str, Any]) -> None:
        await send(first)
        while True:
            await send(piece)
            await asyncio.sleep(every_s)

    return says


@contextmanager
def serving(says: Says, models: Sequence[str] = ("policy",)) -> Iterator[Server]:
    """Run a server in a thread of its own."""
    server = Server(says, models)

    async def start() -> None:
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"

    with loop_thread(start):
        yield server
