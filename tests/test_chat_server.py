"""`r1pipe chat --url`: an answer of a server is shown as it comes; none of its ways ends a chat."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from command import Run
from event_server import DONE, EVENTS, Send, again, event, raw, serving
from handed_world import handed
from hostile_server import response
from terminal import typed

ANSWER = event("<think>\nhm") + event("\x1b[2J\n</think>\n\nfo") + event("ur", "stop") + DONE
WHOLE = {"choices": [{"text": "<think>\nhm\n</think>\n\nfour", "finish_reason": "stop"}]}


def given(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text), "utf-8"))


def test_in_a_pipe_the_answer_is_the_whole_one_and_escaped(
    tmp_path: Path, r1pipe: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ("--store", str(handed(tmp_path)[1].root))
    with serving(raw(EVENTS + ANSWER)) as server:
        given(monkeypatch, b"2+2\nmore\n")
        code, out, err = r1pipe("chat", "zero", "--url", server.url, *store)
        assert (code, out) == (0, "hm\\x1b[2J\nfour\n" * 2), err
        assert [body["stream"] for body in server.asked] == [True, True]
        given(monkeypatch, b"2+2\n")
        server.says = raw(response(200, json.dumps(WHOLE).encode(), "Connection: close"))
        assert r1pipe("chat", "zero", "--url", server.url, *store)[1] == "hm\nfour\n"
        given(monkeypatch, b"2+2\n")
        out = r1pipe("chat", "zero", "--url", server.url, "--json", *store)[1]
    assert json.loads(out)["answer"] == "four"
    assert "stream" not in server.asked[-1], "a document comes when it is whole"


def test_in_a_pipe_a_server_that_breaks_off_ends_the_command(
    tmp_path: Path, r1pipe: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ("--store", str(handed(tmp_path)[1].root))
    given(monkeypatch, b"2+2\n")
    with serving(raw(EVENTS + event("fo"))) as server:
        code, out, err = r1pipe("chat", "zero", "--url", server.url, *store)
    assert (code, out) == (1, "fo\n")
    assert "broke off: the events ended before the completion did" in err


def test_a_server_of_several_models_is_asked_for_the_one_that_is_named(
    tmp_path: Path, r1pipe: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ("--store", str(handed(tmp_path)[1].root))
    with serving(raw(EVENTS + ANSWER), models=("policy", "other")) as server:
        given(monkeypatch, b"2+2\n")
        code, _, err = r1pipe("chat", "zero", "--url", server.url, *store)
        assert code == 1
        assert "serves policy, other; name one in run.generator.model, or with --model" in err
        code, out, _ = r1pipe("chat", "zero", "--url", server.url, "--model", "other", *store)
        assert (code, out) == (0, "hm\\x1b[2J\nfour\n")
    assert server.asked[0]["model"] == "other"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--url", "not a url"), "--url not a url: is no address of a server; write http://"),
        (("--url", "http://me:secret@h/v1"), "--url http://[hidden]@h/v1: holds a user"),
        (("--model", "other"), "--model other: a model of a server; give the server with --url"),
        (("--device", "tpu"), "--device tpu: tpu is no device; write cpu, cuda or cuda:1"),
        (("--device", "cuda"), "--device cuda: this machine has no GPU that may be used"),
    ],
)
def test_what_cannot_be_is_said_by_the_options_name(
    tmp_path: Path, r1pipe: Run, monkeypatch: pytest.MonkeyPatch, options: Any, said: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    given(monkeypatch, b"")
    code, out, err = r1pipe("chat", "zero", *options, "--store", str(handed(tmp_path)[1].root))
    assert (code, out) == (2, "")
    assert err.startswith(said)
    assert "secret" not in err


def test_in_a_terminal_text_comes_at_once_and_neither_ctrl_c_nor_a_failure_ends_the_chat(
    tmp_path: Path,
) -> None:
    endless = again(b": ping\n\n", EVENTS + event("<think>hm"), every_s=0.05)
    script = [
        endless,  # Ctrl-C while text is there
        raw(EVENTS + event("fi")),  # breaks off
        raw(EVENTS + ANSWER),
    ]

    async def says(send: Send, body: dict[str, Any]) -> None:
        await script.pop(0)(send, body)
        await asyncio.sleep(0)

    store = str(handed(tmp_path)[1].root)
    with serving(says) as server:
        command = [sys.executable, "-m", "r1pipe", "chat", "zero", "--store", store]
        code, seen = typed(
            [*command, "--url", server.url],
            (b"> ", b"one\n"),
            (b"\x1b[2mhm\x1b[0m", b"\x03"),
            (b"(ended after", b""),
            (b"> ", b"three\n"),
            (b"fi\r\n", b""),
            (b"(this turn is forgotten)", b""),
            (b"> ", b"four\n"),
            (b"four\r\n", b""),  # what was typed
            (b"four", b""),
            (b"> ", b"\x04"),
        )
    assert code == 0, seen
    assert b"Traceback" not in seen
    assert rb"\x1b[2J" in seen
    prompts = [body["prompt"] for body in server.asked]
    assert len(prompts) == 3
    assert len(prompts[2]) <= len(prompts[1]) + 2, "no turn but the last is in the prompt"
