"""Bounded requests to one server: what it sends is data of a stranger, and may be anything.

A request has a deadline from the first byte to the last, and an answer a size that it may have. No
redirect is followed, nothing is decompressed, no cookie is kept. The key goes to this server only,
and no message shows it.
"""

from __future__ import annotations

import asyncio
import math
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Protocol

import httpx2

from r1pipe.errors import StageError
from r1pipe.keys import JsonObject
from r1pipe.text import visible

MAY_PASS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
CONNECT_TIMEOUT_S = 30.0
MAX_DELAY_S = 60.0
MAX_ERROR_BYTES = 65_536
"""Most that is read of an answer that is a refusal."""
SHOWN_CHARS = 300
EVENTS = "text/event-stream"
"""What an answer is called that comes in events."""
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
HIDDEN = "[key]"


class Passing(Exception):  # noqa: N818 - it is caught where requests are sent again
    """A failure that may pass; `delay_s` is what the server asked for."""

    def __init__(self, message: str, delay_s: float = 0.0) -> None:
        super().__init__(message)
        self.delay_s = delay_s


class Refused(StageError):  # noqa: N818 - it says what the server did
    """A server's answer that no other try changes."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
        """Of HTTP."""


class Follower(Protocol):
    """What reads the events of an answer."""

    @property
    def is_done(self) -> bool:
        """Whether nothing more is read."""

    @property
    def extra_s(self) -> float:
        """Seconds that the answer may take longer for what has come of it."""

    def take(self, data: str) -> None:
        """Read one event's data. Raises Passing for what is no part of an answer."""

    def finish(self) -> None:
        """Note that nothing follows. Raises Passing if something is missing."""


@dataclass(frozen=True)
class Limits:
    """What one answer may take."""

    timeout_s: float
    """From the request to the last byte; a follower may lengthen it."""
    max_bytes: int
    max_stream_bytes: int = 0
    """Of an answer in events, all of them together; one event has at most `max_bytes`."""


class ServerClient:
    """Connections to one server that are used again; all methods belong to one event loop."""

    def __init__(self, url: str, key: str | None, max_concurrency: int) -> None:
        self.url = url.rstrip("/")
        self._key = key
        headers = {"Accept-Encoding": "identity"}
        headers |= {"Authorization": f"Bearer {key}"} if key else {}
        try:
            self._http = httpx2.AsyncClient(
                headers=headers,
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                verify=ssl.create_default_context(),
                trust_env=httpx2.URL(self.url).host not in LOCAL_HOSTS,  # proxies
                timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S),
                limits=httpx2.Limits(
                    max_connections=max_concurrency, max_keepalive_connections=max_concurrency
                ),
                follow_redirects=False,
            )
        except (ImportError, ValueError, httpx2.InvalidURL) as error:
            raise StageError(
                f"{self.url}: a proxy of the environment (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY)"
                f" cannot be used: {type(error).__name__}; set NO_PROXY for this host, or mend it"
            ) from None

    async def ask(self, path: str, body: JsonObject | None, limits: Limits) -> bytes:
        """Send one request, a GET without a body; return the answer's bytes.

        Raises Passing if another try may help, StageError if it may not.
        """
        async with self._answer(path, body, limits.timeout_s) as (answer, _):
            return await _whole(answer, limits.max_bytes)

    async def follow(
        self, path: str, body: JsonObject, follower: Follower, limits: Limits
    ) -> bytes | None:
        """Send one request; have a follower read the events of the answer until it is done.

        An answer that does not come in events is returned, None otherwise. Raises as `ask` does.
        """
        async with self._answer(path, body, limits.timeout_s) as (answer, deadline):
            if answer.headers.get("Content-Type", "").partition(";")[0].strip().lower() != EVENTS:
                return await _whole(answer, limits.max_bytes)
            first = deadline.when() or 0.0
            bounded = httpx2.Response(
                answer.status_code,
                headers={"Content-Type": EVENTS},  # which is UTF-8, whatever else was said
                request=answer.request,
                stream=_Bounded(answer, limits.max_stream_bytes),
            )
            async for event in httpx2.EventSource(bounded, limits.max_bytes):
                follower.take(event.data)
                if follower.is_done:
                    return None
                deadline.reschedule(first + follower.extra_s)
            follower.finish()
        return None

    @asynccontextmanager
    async def _answer(
        self, path: str, body: JsonObject | None, timeout_s: float
    ) -> AsyncIterator[tuple[httpx2.Response, asyncio.Timeout]]:
        """Yield an answer that may be read, and the deadline for that."""
        method = "GET" if body is None else "POST"
        try:
            async with (
                asyncio.timeout(timeout_s) as deadline,
                self._http.stream(method, self.url + path, json=body) as answer,
            ):
                if answer.status_code != 200:
                    raise await self._refusal(path, answer)
                if answer.headers.get("Content-Encoding", "identity") != "identity":
                    raise Passing("the answer is compressed, which was not asked for")
                yield answer, deadline
        except (Passing, StageError):
            raise
        except TimeoutError:
            raise Passing(f"no whole answer within {timeout_s:g} s") from None
        except Exception as error:  # a stranger's bytes: whatever a reader says, it is no answer
            raise Passing(self.shown(_reason(error))) from error

    def shown(self, text: str) -> str:
        """Return a server's words, cut, for a terminal, and without the key."""
        text = text.replace(self._key, HIDDEN) if self._key else text
        return visible(" ".join(text.split())[:SHOWN_CHARS])

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _refusal(self, path: str, answer: httpx2.Response) -> Passing | StageError:
        """Return what an answer with another status than 200 means."""
        status, words = answer.status_code, ""
        if answer.is_redirect:
            target = self.shown(answer.headers.get("Location", "nowhere"))
            return Refused(
                f"{self.url}{path} redirects (HTTP {status}) to {target}; no redirect is followed,"
                " since the key and the prompts would go there. If that is the server, set"
                " run.generator.url to it",
                status,
            )
        with suppress(httpx2.HTTPError):  # a broken body says nothing more than the status
            words = (await _read(answer, MAX_ERROR_BYTES))[0].decode(errors="replace")
        said = f"HTTP {status} {self.shown(words)}".strip()
        if status in MAY_PASS:
            asked = answer.headers.get("Retry-After", "")
            return Passing(said, asked_delay(asked, datetime.now(UTC)))
        if 200 <= status < 300:
            return Passing(f"{said}: an answer without a completion")
        return Refused(f"{self.url}{path} refuses: {said}", status)


def _reason(error: BaseException) -> str:
    """Return what the first cause of an error says: those that wrap it say less."""
    causes = (error.__cause__, *error.args)  # httpcore cuts the chain, and keeps the cause there
    if inner := next((each for each in causes if isinstance(each, Exception)), None):
        return _reason(inner)
    if isinstance(error, OSError) and isinstance(error.errno, int) and error.errno > 0:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__


class _Bounded(httpx2.AsyncByteStream):
    """The bytes of an answer, up to a limit."""

    def __init__(self, answer: httpx2.Response, max_bytes: int) -> None:
        self._answer = answer
        self._max_bytes = max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._answer.aiter_raw():
            size += len(chunk)
            if size > self._max_bytes:
                raise _too_long(self._max_bytes)
            yield chunk


def _too_long(max_bytes: int) -> Passing:
    return Passing(f"the answer is longer than {max_bytes:,} bytes")


async def _whole(answer: httpx2.Response, max_bytes: int) -> bytes:
    """Return all bytes of an answer."""
    data, is_whole = await _read(answer, max_bytes)
    if not is_whole:
        raise _too_long(max_bytes)
    return data


async def _read(answer: httpx2.Response, max_bytes: int) -> tuple[bytes, bool]:
    """Return at most so many bytes of an answer, and whether that is all."""
    data = bytearray()
    async for chunk in answer.aiter_raw():
        data += chunk
        if len(data) > max_bytes:
            return bytes(data[:max_bytes]), False
    return bytes(data), True


def asked_delay(retry_after: str, now: datetime) -> float:
    """Return the seconds that a server asks to wait (RFC 9110, section 10.2.3), at most a minute.

    It gives seconds or a date; anything else, and what has passed, is 0.
    """
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            when = parsedate_to_datetime(retry_after)
            seconds = (when.replace(tzinfo=when.tzinfo or UTC) - now).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return 0.0 if math.isnan(seconds) else min(max(seconds, 0.0), MAX_DELAY_S)


def api_key(variable: str) -> str | None:
    """Return the key in an environment variable, None if there is none.

    Raises StageError, without showing it, for a key that no header can hold.
    """
    key = os.environ.get(variable)
    if not key:
        return None
    wrong = [place for place, char in enumerate(key, start=1) if not "!" <= char <= "~"]
    if wrong:
        raise StageError(
            f"the key in {variable} (run.generator.api_key_env) has a blank, a control character or"
            f" a letter that is not ASCII at place {wrong[0]} of {len(key)}; set it again, without"
            " the end of the line if it came from a file"
        )
    return key
