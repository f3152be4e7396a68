"""A completions server that misbehaves in as many ways as its table has lines.

One server has all modes: the mode is the first part of the path, `/MODE/v1/completions`. The first
`NUM_GOOD` requests of a mode are answered well, later ones as the mode says, so that what was
finished before can be counted. Bytes that were sent are counted by mode.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from loop_thread import loop_thread

NUM_GOOD = 2
KEY = "sk-hostile-0123456789"
GOOD = {"choices": [{"text": "17", "finish_reason": "stop"}]}
MODELS = {"data": [{"id": "policy"}]}
ESCAPES = "\x1b[2J\x1b]0;title\x07\x9b31m\u202ereversed\r\n"
DRIP_S = 0.05
SLOW: list[Says] = []
"""What only a deadline ends."""
PIECE = b"x" * 65_536

End: TypeAlias = Literal["failed", "refused", "taken"]
"""What becomes of it: SamplingFailed, a StageError that names the server's words, or an answer."""


class Line:
    """One connection, seen from a mode."""

    def __init__(self, server: Hostile, mode: str, head: str, writer: asyncio.StreamWriter) -> None:
        self.server = server
        self.mode = mode
        self.head = head
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Send some bytes, as the client takes them."""
        self.server.sent[self.mode] += len(data)
        self._writer.write(data)
        await self._writer.drain()


Says: TypeAlias = Callable[[Line], Awaitable[None]]


@dataclass(frozen=True)
class Mode:
    """One way to misbehave; the connection is closed behind it."""

    end: End
    says: Says
    at: Literal["completions", "models"] = "completions"

    @property
    def is_slow(self) -> bool:
        """Whether only a deadline ends it."""
        return self.says in SLOW


def response(status: int, body: bytes, *headers: str, length: str | None = None) -> bytes:
    """Return the bytes of an answer."""
    lines = [f"HTTP/1.1 {status} Some", *headers]
    lines += [f"Content-Length: {len(body) if length is None else length}"] if length != "" else []
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def raw(*pieces: bytes) -> Says:
    """Send bytes, and close the connection."""

    async def says(line: Line) -> None:
        for piece in pieces:
            await line.send(piece)

    return says


def answer(body: Any, status: int = 200, *headers: str) -> Says:
    """Answer with JSON, or with bytes as they are."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return raw(response(status, data, "Connection: close", *headers))


def again(piece: bytes, first: bytes = b"", every_s: float = 0.0) -> Says:
    """Send bytes without end, at once or slowly."""

    async def says(line: Line) -> None:
        await line.send(first)
        while True:
            await line.send(piece)
            await asyncio.sleep(every_s)

    if every_s:
        SLOW.append(says)
    return says


async def hang(line: Line) -> None:
    """Say nothing."""
    await asyncio.sleep(600)


SLOW.append(hang)


def echo(status: int) -> Says:
    """Answer with what was asked, the key among it."""

    async def says(line: Line) -> None:
        await line.send(response(status, (line.head + ESCAPES).encode()))

    return says


def moved(status: int, target: str) -> Says:
    """Redirect; ELSEWHERE is another server."""

    async def says(line: Line) -> None:
        place = target.replace("ELSEWHERE", f"http://127.0.0.1:{line.server.elsewhere}")
        await line.send(response(status, b"", f"Location: {place}"))

    return says


def choice(**changes: Any) -> Says:
    """Answer with one choice that differs from a good one; None leaves a field out."""
    made = {**GOOD["choices"][0], **changes}
    return answer({"choices": [{name: v for name, v in made.items() if v is not ...}]})


def ids(text: str) -> Says:
    """Answer with token ids as they are written here."""
    body = '{"choices": [{"text": "17", "finish_reason": "stop", "token_ids": %s}]}' % text  # noqa: UP031
    return answer(body.encode())


_OK = json.dumps(GOOD).encode()
_DEEP = b"[" * 20_000 + b"]" * 20_000
_CHUNKED = response(200, b"", "Transfer-Encoding: chunked", length="")

BODIES = {
    "empty": b"", "html": b"<html>busy</html>", "cut": _OK[:20], "words": b"17", "null": b"null",
    "number": b"1e999", "text": b'"17"', "array": b"[]", "nan": b"NaN", "deep array": _DEEP,
    "deep objects": b'{"a":' * 8_000 + b"1" + b"}" * 8_000,
    "deep where nobody reads": b'{"more": ' + _DEEP + b"," + _OK[1:],
    "integer of 40,000 digits": b'{"more": ' + b"9" * 40_000 + b"," + _OK[1:],
    "not UTF-8": _OK.replace(b"17", b"\xff\xfe"), "UTF-16": _OK.decode().encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf" + _OK, "NUL": _OK + b"\0", "two objects": _OK + _OK,
    "half of a character": _OK.replace(b"17", b"\\ud83d"), "empty object": b"{}",
    "50 MB": b'{"more": "' + b"x" * 50_000_000 + b'",' + _OK[1:],
}  # fmt: skip
CHOICES: dict[str, Any] = {
    "none": None, "an object": {}, "no choice": [], "two": GOOD["choices"] * 2,
    "10,000": GOOD["choices"] * 10_000, "a list of null": [None], "text": "17", "of text": ["17"],
}  # fmt: skip
FIELDS: dict[str, dict[str, Any]] = {
    "no reason": {"finish_reason": ...}, "reason null": {"finish_reason": None},
    "reason abort": {"finish_reason": "abort"}, "reason a list": {"finish_reason": ["stop"]},
    "no text": {"text": ...}, "text null": {"text": None}, "text a list": {"text": ["17"]},
    "text a number": {"text": 17}, "text of 5,001 tokens": {"text": "1 " * 5001},
    "text an object": {"text": {"a": "17"}},
    "nothing, cut off": {"text": "", "finish_reason": "length"},
}  # fmt: skip
IDS = {
    "text": '"17"', "a number": "17", "an object": "{}", "NaN": "[NaN]", "negative": "[-1]",
    "2**70": f"[{2**70}]", "10**30": f"[{10**30}]", "fractions": "[1.5]", "floats": "[9.0]",
    "booleans": "[true]", "lists": "[[9]]", "texts": '["9"]', "null inside": "[9, null]",
    "just outside": "[4096]", "5,001": str([9] * 5001), "of another text": "[40, 41, 42]",
    "infinite": "[1e999]", "of 10,000 digits": f"[{'9' * 4000}{'9' * 4000}]",
}  # fmt: skip
BROKEN = {
    "no answer": raw(), "no status": raw(b"hello\r\n\r\n"), "half a status": raw(b"HTTP/1.1 2"),
    "half of the headers": raw(b"HTTP/1.1 200 OK\r\nContent-"),
    "half of the body": raw(response(200, _OK, length="5000")),
    "negative length": raw(response(200, _OK, length="-5")),
    "length in words": raw(response(200, _OK, length="many")),
    "two lengths": answer(_OK, 200, "Content-Length: 3"),
    "length and chunks": answer(_OK, 200, "Transfer-Encoding: chunked"),
    "odd chunk": raw(_CHUNKED, b"zz\r\n", _OK), "chunk cut": raw(_CHUNKED, b"ffff\r\n", _OK),
    "huge chunk": raw(_CHUNKED, b"f" * 64 + b"\r\n", _OK),
    "unknown coding": answer(_OK, 200, "Transfer-Encoding: rot13"),
    "header without a name": answer(_OK, 200, ": value"),
    "header with NUL": answer(_OK, 200, "X-A: a\0b"),
    "giant header": answer(_OK, 200, "X-A: " + "a" * 1_000_000),
    "header flood": answer(_OK, 200, *(f"X-{i}: {i}" for i in range(20_000))),
    "gzip": answer(gzip.compress(_OK), 200, "Content-Encoding: gzip"),
    "gzip bomb": answer(gzip.compress(b" " * 50_000_000), 200, "Content-Encoding: gzip"),
    "unknown encoding": answer(_OK, 200, "Content-Encoding: odd"),
    "204": raw(response(204, b"", length="")), "206": answer(_OK, 206), "101": answer(_OK, 101),
    "hang": hang, "slow status": again(b"H", b"HTTP/1.1 200 ", DRIP_S),
    "slow headers": again(b"X-A: b\r\n", b"HTTP/1.1 200 OK\r\n", DRIP_S),
    "slow body": again(b" ", response(200, b"", length="9000"), DRIP_S),
    "slow chunks": again(b"1\r\n \r\n", _CHUNKED, DRIP_S),
    "endless headers": again(b"X-A: b\r\n" * 100, b"HTTP/1.1 200 OK\r\n"),
    "endless 100": again(b"HTTP/1.1 100 Continue\r\n\r\n", every_s=0.001),
    "endless body": again(PIECE, response(200, b"", length="")),
    "endless length": again(PIECE, response(200, b"", length=str(10**15))),
    "endless chunks": again(b"10000\r\n" + PIECE + b"\r\n", _CHUNKED),
    "endless blanks": again(b" " * 65_536, response(200, b"", length="")),
    "endless status": again(b"x" * 1000, b"HTTP/1.1 200 "),
}  # fmt: skip
BUSY = {
    **{f"Retry-After {value}": value for value in ("nan", "inf", "-5", "1e400", "soon", "0, 5")},
    "Retry-After far": "Fri, 31 Dec 9999 23:59:59 GMT",
    "Retry-After year 0": "Mon, 1 Jan 0000 0:0:0",
    "Retry-After past": "Mon, 01 Jan 1990 00:00:00 GMT", "Retry-After long": "9" * 5000,
}  # fmt: skip
TARGETS = {
    "elsewhere": "ELSEWHERE/v1/completions", "a file": "file:///etc/passwd", "nowhere": "",
    "itself": "completions", "a port of many digits": "http://127.0.0.1:99999999/",
    "bad brackets": "http://[::1", "bad characters": f"/{KEY}\x1b[2J", "the key": f"/{KEY}",
}  # fmt: skip
NAMES: dict[str, Any] = {
    "null": None, "no data": {}, "data null": {"data": None}, "data an object": {"data": {}},
    "id a number": {"data": [{"id": 5}]}, "no id": {"data": [{}]}, "a list": [],
    "of text": {"data": "policy"},
}  # fmt: skip

MODES: dict[str, Mode] = {
    **{f"body: {name}": Mode("failed", answer(body)) for name, body in BODIES.items()},
    **{f"choices: {n}": Mode("failed", answer({"choices": c})) for n, c in CHOICES.items()},
    **{f"choice: {name}": Mode("failed", choice(**c)) for name, c in FIELDS.items()},
    **{f"ids: {name}": Mode("failed", ids(text)) for name, text in IDS.items()},
    **{f"http: {name}": Mode("failed", says) for name, says in BROKEN.items()},
    **{f"503: {n}": Mode("failed", answer({}, 503, f"Retry-After: {v}")) for n, v in BUSY.items()},
    "500 that shows the key": Mode("failed", echo(500)),
    "429 with escapes": Mode("failed", answer(ESCAPES.encode(), 429)),
    "503 without end": Mode("failed", again(PIECE, response(503, b"", length=""))),
    "503 slowly": Mode("failed", again(b"x", response(503, b"", length="9000"), DRIP_S)),
    "status 999": Mode("refused", answer(_OK, 999)),
    "400 that shows the key": Mode("refused", echo(400)),
    "401 that shows the key": Mode("refused", echo(401)),
    "400 with escapes": Mode("refused", answer(ESCAPES.encode(), 400)),
    "400 without end": Mode("refused", again(PIECE, response(400, b"", length=""))),
    "400 slowly": Mode("failed", again(b"x", response(400, b"", length="9000"), DRIP_S)),
    "400 with half a body": Mode("refused", raw(response(400, b"x", length="5000"))),
    "404 as gzip": Mode("refused", answer(gzip.compress(b"x"), 404, "Content-Encoding: gzip")),
    "407": Mode("refused", answer({}, 407, "Proxy-Authenticate: Basic")),
    **{
        f"{code} to another server": Mode("refused", moved(code, "ELSEWHERE/v1/completions"))
        for code in (301, 302, 303, 307, 308)
    },
    **{
        f"redirect: {name}": Mode("refused", moved(302, to))
        for name, to in TARGETS.items()
    },
    "302 without a place": Mode("refused", answer({}, 302)),
    "304": Mode("refused", raw(response(304, b""))),
    "HTTP/9": Mode("taken", raw(response(200, _OK).replace(b"/1.1", b"/9.9"))),
    "cookies": Mode("taken", answer(GOOD, 200, *(f"Set-Cookie: c{i}=1" for i in range(500)))),
    "a second answer": Mode("taken", raw(response(200, _OK) + response(200, b"{}"))),
    "ids null": Mode("taken", ids("null")),
    "more fields": Mode("taken", answer({**GOOD, "usage": None, "id": [1], "\x1b[2J": 1})),
    "a name twice": Mode("taken", answer(b'{"choices": [], ' + _OK[1:])),
    **{f"models: {name}": Mode("failed", answer(v), "models") for name, v in NAMES.items()},
    "models: deep": Mode("failed", answer(_DEEP), "models"),
    "models: without end": Mode("failed", again(PIECE, response(200, b"", length="")), "models"),
    "models: slowly": Mode("failed", again(b" ", response(200, b"", length="9"), 9), "models"),
    "models: key": Mode("refused", echo(403), "models"),
    "models: elsewhere": Mode("refused", moved(302, "ELSEWHERE/v1/models"), "models"),
    "models: no name": Mode("refused", answer({"data": []}), "models"),
    "models: escapes": Mode("refused", answer({"data": [{"id": KEY + ESCAPES}] * 2}), "models"),
    "models: 100,000": Mode("refused", answer({"data": [{"id": "m"}] * 100_000}), "models"),
}  # fmt: skip


class Hostile:
    """The server; `elsewhere` is the port of another one, which nobody should ever ask."""

    def __init__(self) -> None:
        self.port = self.elsewhere = 0
        self.sent = Counter[str]()
        """Bytes by mode."""
        self.asked = Counter[str]()
        """Requests for completions by mode."""
        self.connections = 0
        self.led_away: list[str] = []
        """What the other server was asked."""

    def url(self, mode: str) -> str:
        """Return the address under which a mode answers."""
        return f"http://127.0.0.1:{self.port}/{list(MODES).index(mode)}/v1"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        self.connections += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._answer(reader, writer):
                pass
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        sizes = [part for part in head.split("\r\n") if part.lower().startswith("content-length:")]
        await reader.readexactly(int(sizes[0].partition(":")[2]) if sizes else 0)
        number, _, path = head.split(" ")[1].removeprefix("/").partition("/")
        name = list(MODES)[int(number)]
        mode, at = MODES[name], path.removeprefix("v1/")
        line = Line(self, name, head, writer)
        self.asked[name] += at == "completions"
        is_good = mode.at != at or (at == "completions" and self.asked[name] <= NUM_GOOD)
        if is_good:
            await line.send(
                response(200, _OK if at == "completions" else json.dumps(MODELS).encode())
            )
            return True
        await mode.says(line)
        return False

    async def lead_away(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer well, as another server."""
        self.led_away.append((await reader.read(65_536)).decode("latin-1"))
        writer.write(response(200, _OK))
        writer.close()


@contextmanager
def hostile_server() -> Iterator[Hostile]:
    """Run the server in a thread of its own."""
    server = Hostile()

    async def start() -> None:
        for name, serve in (("port", server.serve), ("elsewhere", server.lead_away)):
            listening = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**20)
            setattr(server, name, listening.sockets[0].getsockname()[1])

    with loop_thread(start):
        yield server
