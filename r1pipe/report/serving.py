"""A report on the loopback interface, made anew when it is asked for."""

from __future__ import annotations

import hashlib
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from r1pipe.errors import R1PipeError
from r1pipe.text import visible

FRESH_S = 4.0
"""A page is made again if it is asked for after so long, at the earliest."""
REST = 5.0
"""How many times as long as it took to make a page none is made: the run has the cores."""
IDLE_S = 60.0
"""A connection on which nothing is asked is closed: browsers open some in advance."""


NAMES = ("127.0.0.1", "localhost")
"""Of this machine, in a request; a name that leads here from elsewhere is refused."""
WATCHED = b'data-watched="yes"'
"""What a page to be watched has; its version takes the place of the word."""


def serve(make: Callable[[], str], announce: Callable[[str], None]) -> None:
    """Serve the page that `make` returns until Ctrl-C, at a free port of 127.0.0.1."""
    with _Server(("127.0.0.1", 0), _handler(_Pages(make))) as server:
        announce(f"http://127.0.0.1:{server.server_address[1]}/")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a browser that has left; anything else is a bug."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def _handler(pages: _Pages) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Answers `/` with the page and `/version` with its digest; nothing else is there."""

        timeout = IDLE_S

        def do_GET(self) -> None:
            """Answer; by this machine's own names only, so that no page elsewhere reads it."""
            if self.headers.get("Host", "").lower().split(":")[0] not in NAMES:
                self.send_error(403)
                return
            if self.path not in ("/", "/version"):
                self.send_error(404)
                return
            try:
                page, version = pages.latest()
            except R1PipeError as error:
                self._answer(500, "text/plain", visible(str(error)).encode())
                return
            if self.path == "/":
                self._answer(200, "text/html", page)
            else:
                self._answer(200, "text/plain", version.encode())

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            """Say nothing of requests."""

    return Handler


class _Pages:
    def __init__(self, make: Callable[[], str]) -> None:
        self.make = make
        self.made_at = float("-inf")
        self.took_s = 0.0
        self.page, self.version = b"", ""
        self._lock = threading.Lock()

    def latest(self) -> tuple[bytes, str]:
        """Return the page and its version, made anew if it is old.

        One thread makes it, others wait for that. The version is a digest of what the page shows,
        without the minute at which it was made; a page to be watched holds its own.
        """
        with self._lock:
            began = time.monotonic()
            if began - self.made_at >= max(FRESH_S, REST * self.took_s):
                page = self.make().encode()
                start = page.find(b"as of ")
                self.version = hashlib.sha256(page[:start] + page[start + 26 :]).hexdigest()
                self.page = page.replace(WATCHED, f'data-watched="{self.version}"'.encode(), 1)
                self.made_at = time.monotonic()
                self.took_s = self.made_at - began
            return self.page, self.version
