"""A completion in events: told as it comes, read as one that is whole, and left if it is none."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import closing
from typing import Any

import pytest
from event_server import DONE, EVENTS, Says, Send, Server, again, event, raw, serving
from hostile_server import ESCAPES, KEY, response
from tiny import tokenizer

from r1pipe.errors import StageError
from r1pipe.generate import openai_server, openai_stream
from r1pipe.generate.failures import SamplingFailed
from r1pipe.generate.openai_backend import OpenAISettings
from r1pipe.generate.openai_server import ServerGenerator
from r1pipe.generate.openai_stream import stream_limits
from r1pipe.generate.protocol import Request, Sampled, SamplingParams, TextTellingGenerator
from r1pipe.records import FinishReason

EOS = tokenizer().eos_token_id
MAX_TOKENS = 32
GOOD = event("3+4") + event("=7") + event("", "stop") + DONE


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_server, "FIRST_DELAY_S", 0.01)


def asked(server: Server, told: list[str], **changes: Any) -> Sampled:
    values = {"backend": "openai", "url": server.url, "max_retries": 1, **changes}
    with closing(ServerGenerator(OpenAISettings(**values), tokenizer(), [EOS])) as generator:
        assert isinstance(generator, TextTellingGenerator)
        generator.on_text = told.append
        request = Request((5, 6, 7), 1, 0)
        (sampled,) = generator.generate([request], SamplingParams(max_tokens=MAX_TOKENS))
    return sampled


IDS = list(tokenizer()("3+4=7")["input_ids"])


def test_text_is_told_while_it_comes_and_the_completion_is_that_of_the_whole() -> None:
    is_told = threading.Event()

    async def says(send: Send, body: dict[str, Any]) -> None:
        await send(EVENTS + event("3+4"))
        while not is_told.is_set():  # the rest is sent when the first has been shown
            await asyncio.sleep(0.01)
        await send(event("=7") + event("", "stop") + DONE)

    class Told(list[str]):
        def append(self, text: str) -> None:
            super().append(text)
            if text:
                is_told.set()

    told = Told()
    with serving(says) as server:
        sampled = asked(server, told, timeout_s=30)
    assert [text for text in told if text] == ["3+4", "=7"]
    assert (sampled.token_ids, sampled.finish_reason) == ([*IDS, EOS], FinishReason.STOP)
    assert server.asked[0]["stream"] is True


@pytest.mark.parametrize(
    "stream",
    [
        GOOD,
        GOOD.replace(b"\n", b"\r\n"),
        GOOD.replace(b"\n", b"\r"),
        GOOD.replace(b"data: ", b"data:"),
        GOOD.removesuffix(DONE),
        b": ping\n\nretry: 5\nid: 7\n\n" + GOOD,
        b"".join(b"event: more\n" + each + b"\n\n" for each in GOOD.strip().split(b"\n\n")),
        event("3+4=7", "stop") + DONE,
        event("3+4") + event("=7") + event("", "stop") + b'data: {"choices": []}\n\n' + DONE,
        event("3+4", token_ids=IDS[:3]) + event("=7", "stop", token_ids=[*IDS[3:], EOS]) + DONE,
        event(None, token_ids=IDS) + event("", "stop", token_ids=[EOS]) + DONE,
    ],
)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_the_ways_to_send_events_that_mean_the_same(stream: bytes, size: int) -> None:
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    told: list[str] = []
    with serving(raw(EVENTS, *pieces)) as server:
        sampled = asked(server, told)
    assert sampled.token_ids == [*IDS, EOS]
    assert "".join(told) == (
        "" if b"null, " in stream[:60] and b'"text": null' in stream else "3+4=7"
    )


WHOLE = json.dumps({"choices": [{"text": "3+4=7", "finish_reason": "stop"}]}).encode()


def test_a_server_that_sends_it_whole_is_taken_as_it_is() -> None:
    told: list[str] = []
    with serving(raw(response(200, WHOLE, "Content-Type: application/json"))) as server:
        assert asked(server, told).token_ids == [*IDS, EOS]
    assert not "".join(told)
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [400, 422, 501])
def test_a_server_that_refuses_events_is_asked_without_them_from_then_on(status: int) -> None:
    async def says(send: Send, body: dict[str, Any]) -> None:
        refused = response(status, b"no stream", "Connection: close")
        await send(refused if body.get("stream") else response(200, WHOLE, "Connection: close"))

    with serving(says) as server:
        values: Any = {"backend": "openai", "url": server.url}
        with closing(ServerGenerator(OpenAISettings(**values), tokenizer(), [EOS])) as generator:
            generator.on_text = lambda text: None
            for number in range(2):
                list(generator.generate([Request((5,), number, 0)], SamplingParams()))
    assert ["stream" in body for body in server.asked] == [True, False, False]


@pytest.mark.parametrize(("status", "times"), [(400, 2), (401, 1), (404, 1)])
def test_a_refusal_is_told_in_the_servers_words(status: int, times: int) -> None:
    with (
        serving(raw(response(status, b"too long\x1b[2J", "Connection: close"))) as server,
        pytest.raises(StageError, match=rf"refuses: HTTP {status} too long\\x1b\[2J"),
    ):
        asked(server, [])
    assert len(server.asked) == times


def test_without_a_listener_nothing_is_asked_in_events() -> None:
    with serving(raw(response(200, WHOLE, "Connection: close"))) as server:
        values: Any = {"backend": "openai", "url": server.url}
        with closing(ServerGenerator(OpenAISettings(**values), tokenizer(), [EOS])) as generator:
            list(generator.generate([Request((5,), 1, 0)], SamplingParams()))
    assert "stream" not in server.asked[0]


# ---- malformed, slow, without end ----------------------------------------------------------------

DEEP = b"data: " + b"[" * 20_000 + b"\n\n"
BEFORE: dict[str, Says] = {
    "nothing": raw(EVENTS),
    "no event": raw(EVENTS, b"hello\n\n"),
    "only the end": raw(EVENTS, DONE),
    "no JSON": raw(EVENTS, b"data: {\n\n"),
    "deep": raw(EVENTS, DEEP),
    "of a chat": raw(EVENTS, b'data: {"choices": [{"delta": {"content": "hi"}}]}\n\n', DONE),
    "two choices": raw(EVENTS, b'data: {"choices": [{"text": "a"}, {"text": "b"}]}\n\n'),
    "another choice": raw(EVENTS, event("a", index=1)),
    "reason abort": raw(EVENTS, event("a", "abort")),
    "text a number": raw(EVENTS, b'data: {"choices": [{"text": 5}]}\n\n'),
    "half a character": raw(EVENTS, b'data: {"choices": [{"text": "\\ud83d"}]}\n\n'),
    "ids of text": raw(EVENTS, event("a", token_ids=["9"])),
    "an error": raw(EVENTS, b'data: {"error": {"message": "worker died"}}\n\n', DONE),
    "one long line": again(b"x" * 65_536, EVENTS + b"data: "),
    "one long comment": again(b"x" * 65_536, EVENTS + b": "),
    "comments without end": again(b": ping\n" * 5000),
    "blank lines without end": again(b"\n" * 65_536),
    "gzip": raw(response(200, b"x", "Content-Type: text/event-stream", "Content-Encoding: gzip")),
    "comments slowly": again(b": ping\n\n", every_s=0.05),
    "bytes slowly": again(b"d", every_s=0.05),
}
AFTER: dict[str, tuple[Says, str]] = {
    "cut": (raw(EVENTS, event("3+4")), "the events ended before the completion did"),
    "no JSON": (raw(EVENTS, event("3+4"), b"data: {\n\n"), "an answer without a completion"),
    "an error": (
        raw(EVENTS, event("3+4"), b'data: {"error": "out of \x1b[2J%s"}\n\n' % KEY.encode()),
        "an answer without a completion",
    ),
    "an escaped error": (
        raw(EVENTS, event("3+4"), b'data: {"error": "dead \\u001b[2J"}\n\n'),
        r"the server broke off: \"dead ",
    ),
    "text after the end": (
        raw(EVENTS, event("3+4", "stop"), event("=7"), DONE),
        "text after the completion's end",
    ),
    "ids of another text": (
        raw(EVENTS, event("3+4", "stop", token_ids=[40, 41, 42]), DONE),
        "token_ids that read otherwise",
    ),
    "more tokens than asked for": (again(event("1")), "the answer is longer than"),
    "too many tokens": (
        raw(EVENTS, event("1" * (2 * MAX_TOKENS + 1), "stop"), DONE),
        "65 tokens, though max_tokens is 32",
    ),
    "hanging": (again(b": ping\n\n", EVENTS + event("3+4"), every_s=0.05), "no whole answer"),
}


@pytest.mark.parametrize("name", BEFORE)
def test_what_is_no_completion_is_asked_again_and_then_a_failure(name: str) -> None:
    told: list[str] = []
    timeout_s = 0.5 if "slowly" in name else 60
    with serving(BEFORE[name]) as server:
        with pytest.raises(SamplingFailed, match="failed 2 times for one request") as failure:
            asked(server, told, timeout_s=timeout_s)
        limits = stream_limits(3, MAX_TOKENS, timeout_s)
        assert server.sent < 2 * (limits.max_stream_bytes + 16 * 2**20)
    assert len(server.asked) == 2
    assert not "".join(told)
    assert str(failure.value).isprintable()


@pytest.mark.parametrize("name", AFTER)
def test_after_some_text_a_failure_ends_it_and_nothing_is_told_twice(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_stream, "EXTRA_S", 0.1)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    says, said = AFTER[name]
    told: list[str] = []
    with serving(says) as server, pytest.raises(SamplingFailed, match="broke off") as failure:
        asked(server, told, timeout_s=0.5 if name == "hanging" else 60)
    assert said.replace("\\", "") in str(failure.value)
    assert len(server.asked) == 1
    assert set("".join(told)) <= set("3+41=7")
    assert str(failure.value).isprintable()
    assert KEY not in str(failure.value)


def test_each_text_gives_more_time_but_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_stream, "EXTRA_S", 0.15)
    slow = [event(str(number % 10)) for number in range(8)]
    with serving(raw(EVENTS, *slow, event("", "stop"), DONE, every_s=0.1)) as server:
        asked(server, [], timeout_s=0.5)  # a second in all, and half of one is allowed
    began = time.monotonic()
    with serving(again(event("1"), every_s=0.1)) as server, pytest.raises(SamplingFailed):
        asked(server, [], timeout_s=0.5)
    assert time.monotonic() - began < 0.5 + 0.15 * MAX_TOKENS + 5


@pytest.mark.parametrize("first", [EVENTS, EVENTS + event("3+4")])
def test_whoever_listens_may_end_it_while_nothing_comes(first: bytes) -> None:
    told: list[str] = []

    class Enough(Exception):  # noqa: N818 - what a test raises
        pass

    def on_text(text: str) -> None:
        told.append(text)
        if len(told) == 4:
            raise Enough

    with serving(again(b": ping\n\n", first, every_s=0.05)) as server:
        values: Any = {"backend": "openai", "url": server.url}
        with closing(ServerGenerator(OpenAISettings(**values), tokenizer(), [EOS])) as generator:
            generator.on_text = on_text
            with pytest.raises(Enough):
                list(generator.generate([Request((5,), 1, 0)], SamplingParams()))
            assert server.is_left.wait(10), "the server need not go on"
    assert "".join(told) == ("3+4" if len(first) > len(EVENTS) else "")


def test_control_characters_come_as_they_are_and_are_written_out_where_they_are_shown() -> None:
    told: list[str] = []
    with serving(raw(EVENTS, event(ESCAPES, "stop"), DONE)) as server:
        asked(server, told)
    assert "".join(told) == ESCAPES
