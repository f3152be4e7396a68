"""A report on the loopback interface, made anew when it is asked for."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FRESH_S = 4.0
"""A page is made again if it is asked for after so long."""
IDLE_S = 60.0
"""A connection on which nothing is asked is closed: browsers open some in advance."""


def serve(make: Callable[[], str], announce: Callable[[str], None]) -> None:
    """Serve the page that `make` returns until Ctrl-C, at a free port of 127.0.0.1."""
    pages = _Pages(make)

    class Handler(BaseHTTPRequestHandler):
        """Answers `/` with the page and `/version` with its digest; nothing else is there."""

        timeout = IDLE_S

        def do_GET(self) -> None:
            """Answer."""
            if self.path not in ("/", "/version"):
                self.send_error(404)
                return
            body = pages.latest() if self.path == "/" else pages.version()
            kind = "text/html" if self.path == "/" else "text/plain"
            self.send_response(200)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            """Say nothing of requests."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        announce(f"http://127.0.0.1:{server.server_address[1]}/")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


class _Pages:
    def __init__(self, make: Callable[[], str]) -> None:
        self.make = make
        self.made_at = float("-inf")
        self.page = b""
        self._lock = threading.Lock()

    def latest(self) -> bytes:
        """Return the page, made anew if it is old; one thread makes it, others wait for that."""
        with self._lock:
            if time.monotonic() - self.made_at >= FRESH_S:
                self.page = self.make().encode()
                self.made_at = time.monotonic()
            return self.page

    def version(self) -> bytes:
        """Return a digest of what the page shows, without the minute at which it was made."""
        page = self.latest()
        start = page.find(b"as of ")
        return hashlib.sha256(page[:start] + page[start + 26 :]).hexdigest().encode()
