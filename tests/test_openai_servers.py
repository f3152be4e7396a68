"""Sampling from several servers: requests of one that fails go to the others."""

from __future__ import annotations

from typing import Any

import pytest
from test_openai_server import REQUESTS, SEEDS, Body, completion, connect, serving

from r1pipe.generate import openai_server
from r1pipe.generate.failures import SamplingFailed
from r1pipe.generate.protocol import SamplingParams


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_server, "FIRST_DELAY_S", 0.01)


def test_a_server_of_two_that_fails_leaves_its_requests_to_the_other() -> None:
    def broken(body: Body, times: int) -> tuple[int, Any]:
        return 503, {"error": "overloaded"}

    with serving(broken) as one, serving(lambda body, times: (200, completion())) as other:
        generator = connect(one, url=(one.url, other.url), max_retries=0, max_concurrency=2)
        found = [made.index for made in generator.generate(REQUESTS, SamplingParams())]
        (loss,) = generator.losses
        generator.close()
    assert generator.num_slots == 4
    assert sorted(found) == list(range(12))
    assert one.asked
    assert sorted(body["seed"] for body in other.asked) == sorted(SEEDS)
    assert one.url in loss
    assert "requests went to other servers" in loss


def test_the_end_of_the_last_server_is_told() -> None:
    def broken(body: Body, times: int) -> tuple[int, Any]:
        return 503, {"error": "overloaded"}

    with serving(broken) as one, serving(broken) as other:
        generator = connect(one, url=(one.url, other.url), max_retries=0)
        with pytest.raises(SamplingFailed, match="HTTP 503"):
            list(generator.generate(REQUESTS, SamplingParams()))
        generator.close()


@pytest.mark.parametrize("is_first", [True, False])
def test_a_server_that_is_not_there_at_the_start_is_left_out_while_another_is(
    is_first: bool,
) -> None:
    with serving(lambda body, times: (200, completion())) as server:
        gone = server.url
    with serving(lambda body, times: (200, completion())) as there:
        urls = (gone, there.url) if is_first else (there.url, gone)
        generator = connect(there, url=urls, max_retries=0)
        found = [made.index for made in generator.generate(REQUESTS, SamplingParams())]
        assert (generator.url, generator.model) == (there.url, "policy")
        generator.close()
    assert sorted(found) == list(range(12))
    assert generator.losses[0].startswith(f"{gone} failed 1 times")
    assert all(gone in loss for loss in generator.losses)
    with pytest.raises(SamplingFailed, match="refused"):
        connect(there, url=urls, max_retries=0)
