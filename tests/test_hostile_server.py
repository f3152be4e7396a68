"""A server that misbehaves: every mode ends in an answer or an error; nothing leaks or grows."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from attacking import KEY_VARIABLE, MAX_TOKENS, Outcome, attacks
from hostile_server import GOOD, KEY, MODELS, MODES, NUM_GOOD, Hostile, hostile_server
from pydantic import ValidationError
from tiny import tokenizer

from r1pipe.errors import Mistake, StageError
from r1pipe.generate import openai_client, openai_server
from r1pipe.generate.openai_answers import max_answer_bytes, read_completion
from r1pipe.generate.openai_backend import OpenAISettings
from r1pipe.generate.openai_client import MAX_DELAY_S, Passing, api_key, asked_delay
from r1pipe.generate.openai_server import ServerGenerator
from r1pipe.generate.protocol import Request, SamplingParams
from r1pipe.manifest.documents import read_overrides
from r1pipe.text import visible

EOS = tokenizer().eos_token_id
KERNEL_BYTES = 16 * 2**20
"""What may lie in the buffers of two sockets, the client's and the server's."""


@pytest.fixture(scope="module")
def attacked() -> Iterator[tuple[Hostile, dict[str, Outcome]]]:
    """Return the server behind all attacks, and their outcomes."""
    with pytest.MonkeyPatch.context() as patch, hostile_server() as server:
        patch.setattr(openai_server, "FIRST_DELAY_S", 0.01)
        patch.setattr(openai_server, "MAX_DELAY_S", 0.02)
        patch.setattr(openai_server, "CONNECT_TIMEOUT_S", 6.0)
        patch.setenv(KEY_VARIABLE, KEY)
        yield server, {outcome.mode: outcome for outcome in attacks(server)}


Attacked = tuple[Hostile, dict[str, Outcome]]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_ends_as_it_should_and_keeps_what_was_finished(
    attacked: Attacked, mode: str
) -> None:
    outcome = attacked[1][mode]
    assert outcome.end == MODES[mode].end, outcome.message
    num_good = 0 if MODES[mode].at == "models" else NUM_GOOD
    assert len(outcome.made) == num_good + (outcome.end == "taken")
    assert all(made.token_ids == [*tokenizer()("17")["input_ids"], EOS] for made in outcome.made)


@pytest.mark.parametrize("mode", MODES)
def test_no_message_shows_the_key_or_moves_the_cursor(attacked: Attacked, mode: str) -> None:
    message = attacked[1][mode].message
    assert KEY not in message
    assert visible(message) == message
    assert len(message) < 800


def test_nobody_is_led_to_another_server(attacked: Attacked) -> None:
    assert attacked[0].led_away == []


@pytest.mark.parametrize("mode", [m for m in MODES if "without end" in m or "endless" in m])
def test_an_answer_without_end_is_left_at_its_limit(attacked: Attacked, mode: str) -> None:
    tries = 2
    limit = max(max_answer_bytes(3, MAX_TOKENS), openai_server.MAX_MODELS_BYTES)
    assert attacked[0].sent[mode] < tries * (limit + KERNEL_BYTES)


def test_there_are_many_modes() -> None:
    assert len(MODES) >= 75


# ---- connections, the end, the key ---------------------------------------------------------------


def generator(server: Hostile, mode: str, **changes: Any) -> ServerGenerator:
    values: dict[str, Any] = {"backend": "openai", "url": server.url(mode), **changes}
    return ServerGenerator(OpenAISettings(**values), tokenizer(), [EOS])


def test_a_connection_is_used_again() -> None:
    with hostile_server() as server, closing(generator(server, "http: hang")) as asking:
        for index in range(NUM_GOOD):
            list(asking.generate([Request((5,), 1, index)], SamplingParams(max_tokens=8)))
        assert server.connections == 1


def test_whoever_stops_does_not_wait_for_requests_under_way() -> None:
    before = set(threading.enumerate())
    with hostile_server() as server:
        asking = generator(server, "http: hang", max_concurrency=8, timeout_s=600)
        requests = [Request((5,), i, i) for i in range(NUM_GOOD + 5)]
        made = asking.generate(requests, SamplingParams(max_tokens=8))
        assert [next(made) for _ in range(NUM_GOOD)], "the others hang"
        new = set(threading.enumerate()) - before
        asking.close()  # a hanging request would hold this, or the test, for ten minutes
        with pytest.raises(StageError, match="sampling was given up"):
            next(made)
    assert all(thread.daemon for thread in new), "the end of a process waits for no such thread"
    for thread in new:
        thread.join(60)
    assert not any(thread.is_alive() for thread in new)


@pytest.mark.parametrize(
    "key",
    ["sk-1\r", "sk-1\n", "sk-1 2", "sk\x1b[31m", "sch\u00fcssel", "sk-\u202e1", "\0", "sk\x7f"],
)
def test_a_key_that_no_header_can_hold_is_refused_without_being_shown(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    if "\0" not in key:
        monkeypatch.setenv("A_KEY", key)
    else:  # no environment can hold it either
        monkeypatch.setattr(os, "environ", {"A_KEY": key})
    with pytest.raises(StageError, match=r"the key in A_KEY .* at place \d of \d") as error:
        api_key("A_KEY")
    assert key not in str(error.value)
    assert str(error.value).isprintable()


def test_the_key_is_checked_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "sk-1\r")
    with hostile_server() as server:
        with pytest.raises(StageError, match="the key in A_KEY"):
            generator(server, "http: hang", api_key_env="A_KEY")
        assert server.connections == 0


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://host/v1",
        "http:///v1",
        "host:8000/v1",
        "http://host:port/v1",
        "http://host/v1?key=1",
        "http://host/v1#a",
        "http://ho st/v1",
        "http://host/v1\r\nX: y",
        "http://host\\other/v1",
        "",
    ],
)
def test_only_plain_addresses_of_servers_are_taken(url: str) -> None:
    with pytest.raises(ValidationError, match="is no address of a server"):
        OpenAISettings(backend="openai", url=url)


@pytest.mark.parametrize("url", ["http://me:secret@host/v1", "https://secret@host/v1"])
def test_an_address_with_a_password_is_refused_without_it(url: str) -> None:
    with pytest.raises(ValidationError, match="holds a user or a password") as error:
        OpenAISettings(backend="openai", url=url)
    (found,) = error.value.errors()
    assert "secret" not in str(found["ctx"]["error"]), "which is what a manifest's mistake says"


@pytest.mark.parametrize(
    "url",
    ["http://host:8000/v1", "https://a-b.example.org/x/v1/", "http://[::1]:80", "HTTP://H/v1"],
)
def test_addresses_of_servers_are_taken(url: str) -> None:
    assert OpenAISettings(backend="openai", url=url).url == url


def test_an_override_with_a_password_is_shown_without_it() -> None:
    mistakes: list[Mistake] = []
    text = "run.generator={backend: openai, url: 'http://me:hunter2@host/v1'}"
    assert read_overrides([text], mistakes) is None
    assert "http://[hidden]@host/v1" in str(mistakes[0])
    assert "hunter2" not in str(mistakes[0])


NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("", 0.0),
        ("soon", 0.0),
        ("nan", 0.0),
        ("-3", 0.0),
        ("inf", MAX_DELAY_S),
        ("1e400", MAX_DELAY_S),
        ("9" * 5000, MAX_DELAY_S),
        (format_datetime(NOW + timedelta(seconds=20), usegmt=True), 20.0),
        (format_datetime(NOW - timedelta(days=20), usegmt=True), 0.0),
        (format_datetime(NOW + timedelta(days=20), usegmt=True), MAX_DELAY_S),
        ("Friday, 02-Jan-26 03:04:15 GMT", 10.0),  # the older form of RFC 850
        ("Fri Jan  2 03:04:16 2026", 11.0),  # that of C's asctime
        ("Mon, 1 Jan 0000 00:00:00 GMT", 0.0),
    ],
)
def test_a_server_asks_to_wait_in_seconds_or_by_a_date(value: str, seconds: float) -> None:
    assert asked_delay(value, NOW) == seconds


def test_ids_read_as_the_text_does_whatever_blanks_and_control_tokens_lie_between() -> None:
    ids = list(tokenizer()("so 3+4=7")["input_ids"])
    for text in ("so 3+4=7", " so 3+4=7\n", "so 3+4=7<|end|>"):
        body = {"choices": [{"text": text, "finish_reason": "stop", "token_ids": [*ids, EOS]}]}
        assert read(body).token_ids == [*ids, EOS]
    for text in ("so 3+4=8", "", "3+4=7"):
        with pytest.raises(Passing, match="read otherwise than the text"):
            read({"choices": [{"text": text, "finish_reason": "stop", "token_ids": ids}]})


def read(body: object) -> Any:
    return read_completion(json.dumps(body).encode(), 0, tokenizer(), [EOS], MAX_TOKENS)


def test_a_text_may_have_more_tokens_when_it_is_tokenized_again_but_not_without_end() -> None:
    body = {"choices": [{"text": "1" * (2 * MAX_TOKENS), "finish_reason": "stop"}]}
    assert len(read(body).token_ids) == 2 * MAX_TOKENS + 1
    body["choices"][0]["text"] += "1"
    with pytest.raises(Passing, match="65 tokens, though max_tokens is 32"):
        read(body)


def test_a_proxy_that_cannot_be_used_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "odd://proxy:1")
    with pytest.raises(StageError, match="a proxy of the environment"):
        openai_client.ServerClient("http://far.example/v1", None, 1)


def test_a_good_server_of_the_table_is_one() -> None:
    assert read(GOOD).token_ids == [*tokenizer()("17")["input_ids"], EOS]
    assert MODELS["data"][0]["id"] == "policy"
