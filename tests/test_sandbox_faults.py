"""What a warm sandbox says, and gives back, where the machine fails it."""

from __future__ import annotations

import json
import os
import socket

import pytest

from r1pipe.sandbox import server
from r1pipe.sandbox.layers import NAMESPACES
from r1pipe.sandbox.program import Place
from r1pipe.sandbox.warm import Order, SandboxError, WarmSandbox


def test_why_a_program_has_no_folder_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_open_folder", lambda *_: ("", "no space left on device"))
    place = Place(os.geteuid(), dict.fromkeys(NAMESPACES, False), (), (), frozenset())
    job: server.Job = {"total_bytes": 1, "fetch": [], "fetch_bytes": 1}
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"1.0")
        server._serve(theirs, job, [], server.Warm(place, own_pids=None))
        answer = json.loads(ours.recv(server.MAX_MESSAGE_BYTES))
    assert (answer["code"], answer["error"]) == (1, "no space left on device")


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_a_sandbox_that_has_ended_leaves_no_pipes_open() -> None:
    sandbox = WarmSandbox(NAMESPACES)
    sandbox._process.kill()
    sandbox._process.wait()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(SandboxError, match="does not answer"):
        sandbox.run(Order({}, {}, wall_s=1.0, output_bytes=1, total_bytes=1))
    assert len(os.listdir("/proc/self/fd")) == before - 1  # its socket
