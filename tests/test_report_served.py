"""A report that is served while a run goes: who may read it, and what a failure says."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from r1pipe.errors import ArtifactError
from r1pipe.report import serving


def served(make: Callable[[], str]) -> str:
    """Serve in a thread of its own and return the address."""
    address: list[str] = []
    ready = threading.Event()

    def announce(found: str) -> None:
        address.append(found)
        ready.set()

    threading.Thread(target=serving.serve, args=(make, announce), daemon=True).start()
    assert ready.wait(10)
    return address[0]


def place(address: str) -> tuple[str, int]:
    host, port = address.removeprefix("http://").strip("/").split(":")
    return host, int(port)


def answer(address: str, path: str = "/", **headers: str) -> tuple[int, bytes]:
    """Return the status and what was sent."""
    connection = http.client.HTTPConnection(*place(address), timeout=20)
    connection.request("GET", path, headers=headers)
    found = connection.getresponse()
    return found.status, found.read()


def test_a_served_page_is_on_loopback_alone_and_has_no_other_file() -> None:
    address = served(lambda: "<p>page")
    assert address.startswith("http://127.0.0.1:")
    with socket.create_connection(place(address)):  # a browser opens some and asks nothing there
        assert urllib.request.urlopen(address, timeout=20).read() == b"<p>page"  # noqa: S310
    assert len(answer(address, "/version")[1]) == 64
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(address + "../etc/passwd")  # noqa: S310 - its own server


def test_a_page_of_another_site_cannot_read_the_report_by_a_name_that_leads_here() -> None:
    address = served(lambda: "<p>page")
    port = place(address)[1]
    for name in (f"127.0.0.1:{port}", f"localhost:{port}", "LOCALHOST"):
        assert answer(address, Host=name) == (200, b"<p>page")
    for name in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "", "["):
        assert answer(address, Host=name)[0] == 403


def test_a_page_to_be_watched_holds_its_version_whatever_the_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serving, "FRESH_S", 0.0)
    monkeypatch.setattr(serving, "REST", 0.0)
    pages = [
        f'<body data-watched="yes">as of 2026-01-01 00:0{n % 2} UTC. {n // 2}' for n in range(9)
    ]
    address = served(lambda: pages.pop(0))
    page = answer(address)[1].decode()
    version = answer(address, "/version")[1].decode()
    assert f'data-watched="{version}"' in page
    assert answer(address, "/version")[1].decode() != version, "another page"


def test_a_page_that_takes_long_to_make_is_made_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    now, pages = [1000.0], [str(number) for number in range(9)]

    def make() -> str:
        now[0] += 10.0
        return pages.pop(0)

    monkeypatch.setattr(serving, "time", SimpleNamespace(monotonic=lambda: now[0]))
    found = serving._Pages(make)
    assert found.latest()[0] == b"0"
    now[0] += serving.REST * 10.0 - 1.0
    assert found.latest()[0] == b"0"
    now[0] += 2.0
    assert found.latest()[0] == b"1"


def test_a_store_that_cannot_be_read_is_said_and_the_server_stays() -> None:
    broken = [ArtifactError("the store is gone \x1b[31m")]

    def make() -> str:
        if broken:
            raise broken.pop()
        return "<p>page"

    address = served(make)
    assert answer(address, "/version") == (500, b"the store is gone \\x1b[31m")
    assert answer(address) == (200, b"<p>page")


def test_a_browser_that_leaves_while_it_is_answered_is_no_news(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked, left = threading.Event(), threading.Event()

    def make() -> str:
        asked.set()
        assert left.wait(10)
        return "x" * 20_000_000

    address = served(make)
    gone = socket.create_connection(place(address))
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    gone.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert asked.wait(10)
    gone.close()
    left.set()
    assert answer(address)[0] == 200
    for thread in threading.enumerate():
        if thread.name.endswith("(process_request_thread)"):
            thread.join(10)
    assert capsys.readouterr().err == ""
