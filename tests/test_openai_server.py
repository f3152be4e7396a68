"""Sampling from a server: what is asked of it, what is tried again, and what ends a unit."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tiny import FakeContext, model, problems, save_policy, stage, tokenizer

from r1pipe.chat import boxed, render_completion
from r1pipe.errors import StageError
from r1pipe.generate import openai_server
from r1pipe.generate.backends import generator_of, open_generator
from r1pipe.generate.failures import FailedUnits, SamplingFailed
from r1pipe.generate.openai_backend import OpenAISettings
from r1pipe.generate.openai_server import ServerGenerator
from r1pipe.generate.protocol import Request, Sampled, SamplingParams
from r1pipe.generate.uniforms import short_seed
from r1pipe.generator_settings import SampleRun
from r1pipe.models.prompts import encode_prompt
from r1pipe.records import FinishReason
from r1pipe.rows import read_rows, write_problems, write_rows
from r1pipe.stage import Inputs

EOS = tokenizer().eos_token_id
Body = dict[str, Any]
Answer = Callable[[Body, int], tuple[int, Any]]
"""(request, how often the same one came before) -> status and body."""


class Server:
    """A completions server that a test scripts."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.models = ["policy"]
        self.asked: list[Body] = []
        self.headers: list[dict[str, str]] = []
        self.most_at_once = self._at_once = 0
        self._lock = threading.Lock()
        self._seen = Counter[int]()
        self.url = ""

    def reply(self, body: Body) -> tuple[int, Any]:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            self.asked.append(body)
            times = self._seen[body["seed"]]
            self._seen[body["seed"]] += 1
        try:
            return self.answer(body, times)
        finally:
            with self._lock:
                self._at_once -= 1


@contextmanager
def serving(answer: Answer) -> Iterator[Server]:
    server = Server(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.say(200, {"data": [{"id": name} for name in server.models]})

        def do_POST(self) -> None:
            server.headers.append(dict(self.headers))
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/v1/completions"
            self.say(*server.reply(body))

        def say(self, status: int, content: Any) -> None:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *parts: Any) -> None:
            return

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    server.url = f"http://127.0.0.1:{listening.server_port}/v1"
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_server, "FIRST_DELAY_S", 0.01)


def completion(text: str = "17", reason: str = "stop", **more: Any) -> Body:
    return {"choices": [{"text": text, "finish_reason": reason, **more}]}


def connect(server: Server, **changes: Any) -> ServerGenerator:
    values: dict[str, Any] = {"backend": "openai", "url": server.url, "max_retries": 2}
    return ServerGenerator(OpenAISettings(**(values | changes)), tokenizer(), [EOS])


REQUESTS = [Request((5, 6, 7), 100 + i, i) for i in range(12)]
SEEDS = [short_seed(request.seed) for request in REQUESTS]


# ---- what is asked and what comes back -----------------------------------------------------------


def test_prompts_go_as_token_ids_and_the_models_own_sampling_defaults_are_switched_off() -> None:
    with serving(lambda body, times: (200, completion())) as server:
        list(connect(server).generate(REQUESTS[:1], SamplingParams(0.7, 0.9, 33)))
    assert server.asked == [
        {
            "model": "policy",
            "prompt": [5, 6, 7],
            "max_tokens": 33,
            "temperature": 0.7,
            "top_p": 0.9,
            "seed": short_seed(100),
            "stop_token_ids": [EOS],
            "return_token_ids": True,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
        }
    ]


def test_token_ids_are_taken_as_they_come() -> None:
    def answer(body: Body, times: int) -> tuple[int, Any]:
        number = SEEDS.index(body["seed"])
        reason = "stop" if number % 2 else "length"
        ids = [100 + number, EOS if number % 2 else 9]
        return 200, completion(tokenizer().decode(ids), reason, token_ids=ids)

    with serving(answer) as server:
        made = {s.index: s for s in connect(server).generate(REQUESTS, SamplingParams())}
    assert sorted(made) == list(range(12))
    assert made[1].token_ids == [101, EOS]
    assert made[1].finish_reason is FinishReason.STOP
    assert made[2].token_ids == [102, 9]
    assert made[2].finish_reason is FinishReason.LENGTH
    assert all(s.logprobs == [] for s in made.values())


def test_text_becomes_tokens_with_an_end_where_the_server_gives_no_ids() -> None:
    with serving(lambda body, times: (200, completion("3+4=7"))) as server:
        (made,) = connect(server).generate(REQUESTS[:1], SamplingParams())
    assert made.token_ids == [*tokenizer()("3+4=7")["input_ids"], EOS]
    assert tokenizer().decode(made.token_ids[:-1]) == "3+4=7"


def test_an_end_that_the_server_left_out_of_the_ids_is_put_back() -> None:
    with serving(
        lambda body, times: (200, completion(tokenizer().decode([9, 10]), token_ids=[9, 10]))
    ) as server:
        (made,) = connect(server).generate(REQUESTS[:1], SamplingParams())
    assert made.token_ids == [9, 10, EOS]


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", "secret")
    with serving(lambda body, times: (200, completion())) as server:
        list(connect(server, api_key_env="TEACHER_KEY").generate(REQUESTS[:1], SamplingParams()))
        list(connect(server, api_key_env="NOT_SET").generate(REQUESTS[:1], SamplingParams()))
    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert "Authorization" not in server.headers[1]


def test_no_more_requests_are_under_way_than_allowed_and_they_are_handed_on_as_they_come() -> None:
    def answer(body: Body, times: int) -> tuple[int, Any]:
        time.sleep(0.2 if body["seed"] == SEEDS[0] else 0.02)
        return 200, completion()

    with serving(answer) as server:
        order = [
            s.index for s in connect(server, max_concurrency=3).generate(REQUESTS, SamplingParams())
        ]
    assert server.most_at_once <= 3
    assert sorted(order) == list(range(12))
    assert order[0] != 0, "the slow one does not hold the others back"


# ---- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_failure_that_passes_is_tried_again(status: int) -> None:
    def answer(body: Body, times: int) -> tuple[int, Any]:
        return (200, completion()) if times == 2 else (status, {"error": "busy"})

    with serving(answer) as server:
        assert len(list(connect(server).generate(REQUESTS[:2], SamplingParams()))) == 2
    assert len(server.asked) == 6


@pytest.mark.parametrize(
    "broken", [b"<html>", {"choices": []}, completion(reason="abort"), {"choices": [{"text": "x"}]}]
)
def test_an_answer_that_is_none_is_asked_for_again(broken: Any) -> None:
    with serving(lambda body, times: (200, completion() if times else broken)) as server:
        assert len(list(connect(server).generate(REQUESTS[:1], SamplingParams()))) == 1
    assert len(server.asked) == 2


def test_a_request_that_keeps_failing_ends_the_unit_and_not_the_completions_before_it() -> None:
    def answer(body: Body, times: int) -> tuple[int, Any]:
        if body["seed"] == SEEDS[3]:
            return 503, {"error": "overloaded"}
        return 200, completion()

    made: list[Sampled] = []
    with serving(answer) as server:
        sampling = connect(server, max_concurrency=1).generate(REQUESTS, SamplingParams())
        with pytest.raises(SamplingFailed, match=r"failed 3 times .* HTTP 503 .*overloaded"):
            made.extend(sampling)
    assert len(server.asked) < 12 + 3, "what had not begun is not begun any more"


def test_a_refused_request_stops_at_once_with_the_servers_words() -> None:
    with serving(lambda body, times: (400, {"message": "maximum context length"})) as server:
        sampling = connect(server, max_concurrency=1).generate(REQUESTS, SamplingParams())
        with pytest.raises(
            StageError, match=r"refuses: HTTP 400 .*maximum context length"
        ) as found:
            list(sampling)
    assert not isinstance(found.value, SamplingFailed)
    assert len(server.asked) <= 2, "one more may have been on its way"


def test_a_server_that_is_not_there_is_said_so() -> None:
    with serving(lambda body, times: (200, completion())) as server:
        url = server.url
    gone = OpenAISettings(backend="openai", url=url, max_retries=1)
    with pytest.raises(SamplingFailed, match=r"failed 2 times .* refused"):
        ServerGenerator(gone, tokenizer(), [EOS])


def test_the_model_is_the_one_named_or_the_only_one() -> None:
    with serving(lambda body, times: (200, completion())) as server:
        server.models = ["a", "b"]
        assert connect(server, model="b").model == "b"
        with pytest.raises(StageError, match=r"serves a, b; name one in run\.generator\.model"):
            connect(server)
        with pytest.raises(StageError, match="serves a, b"):
            connect(server, model="c")


def test_a_server_cannot_follow_a_policy_in_training() -> None:
    run = SampleRun(generator=OpenAISettings(backend="openai", url="http://127.0.0.1:1/v1"))
    with pytest.raises(StageError, match="a server takes no weights"):
        generator_of(model(), tokenizer(), run)


# ---- failed units --------------------------------------------------------------------------------


def test_units_that_fail_now_and_then_are_counted_and_too_many_in_a_row_end_it() -> None:
    failed = FailedUnits(max_in_a_row=2)
    failed.add(SamplingFailed("busy"))
    failed.succeeded()
    failed.add(SamplingFailed("busy"))
    with pytest.raises(StageError, match=r"2 units could not be sampled; .*--resume.* busy"):
        failed.check()
    with pytest.raises(StageError, match="3 units"):
        failed.add(SamplingFailed("gone"))
    FailedUnits().check()


def evaluate(folder: Path, policy: Path, **run: Any) -> FakeContext:
    kind, context = stage("evaluate"), FakeContext(folder)
    listed = problems(12)
    write_rows(folder / "problems", [p.to_row() for p in listed])
    params = kind.params(
        seed=1, format="chat", num_samples=2, max_tokens=8, problems_per_unit=3, num_resamples=50
    )
    settings = kind.run_model.model_validate(run)
    kind.run(
        context, params, settings, Inputs({"model": policy, "problems": {"b": folder / "problems"}})
    )
    return context


def test_an_evaluation_keeps_what_it_has_and_gives_the_same_rows_when_it_goes_on(
    tmp_path: Path,
) -> None:
    policy = save_policy(tmp_path / "policy")
    bad = set[int]()

    def answer(body: Body, times: int) -> tuple[int, Any]:
        if body["seed"] in bad:
            return 503, {"error": "busy"}
        return 200, completion(str(body["seed"] % 10))

    def settings(server: Server) -> Body:
        values = {"backend": "openai", "url": server.url, "max_retries": 0, "max_concurrency": 1}
        return {"generator": values}

    with serving(answer) as server:
        whole = evaluate(tmp_path / "whole", policy, **settings(server))
        bad.add(server.asked[6]["seed"])  # of the second of four units
        with pytest.raises(StageError, match="1 unit could not be sampled"):
            evaluate(tmp_path / "run", policy, **settings(server))
        bad.clear()
        asked = len(server.asked)
        resumed = evaluate(tmp_path / "run", policy, **settings(server))
    assert len(server.asked) - asked == 6, "one unit of three problems, two samples each"
    rows = [list(read_rows(c.output("samples"))) for c in (resumed, whole)]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 24


@pytest.mark.parametrize("adaptive", [None, {"samples_per_round": 1, "enough_rows": 1}])
def test_rejection_sampling_ends_with_the_same_bytes_whatever_failed_on_the_way(
    tmp_path: Path, adaptive: Body | None
) -> None:
    policy, asked = save_policy(tmp_path / "policy"), problems(24)
    write_problems(tmp_path / "problems", asked)
    texts = {
        tuple(encode_prompt(tokenizer(), p.prompt, "chat")): render_completion(
            "a sum", "", "chat", boxed(p.gold)
        )
        for p in asked
    }
    bad = set[int]()

    def answer(body: Body, times: int) -> tuple[int, Any]:
        if body["seed"] in bad:
            return 503, {"error": "busy"}
        word = "sum" if body["seed"] % 3 else "product"
        return 200, completion(texts[tuple(body["prompt"])].replace("sum", word))

    kind = stage("rejection-sample")
    params = {"seed": 1, "target_rows": 99, "samples_per_problem": 2, "max_tokens": 64,
              "problems_per_unit": 4, "adaptive": adaptive}  # fmt: skip
    inputs = {"model": policy, "problems": tmp_path / "problems"}

    def sample(folder: Path, server: Server) -> dict[str, bytes]:
        context = FakeContext(folder)
        settings = {"backend": "openai", "url": server.url, "max_retries": 0, "max_concurrency": 1}
        run = kind.run_model.model_validate({"generator": settings})
        kind.run(context, kind.params.model_validate_json(json.dumps(params)), run, Inputs(inputs))
        out = folder / "out"
        return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}

    with serving(answer) as server:
        whole = sample(tmp_path / "whole", server)
        seeds = [body["seed"] for body in server.asked]
        bad.update(seeds[number] for number in (9, len(seeds) - 1))
        with pytest.raises(StageError, match=r"units? could not be sampled; .*--resume"):
            sample(tmp_path / "run", server)
        bad.clear()
        server.asked.clear()
        assert sample(tmp_path / "run", server) == whole
    assert 0 < len(server.asked) < len(seeds)


def test_a_stage_reaches_a_server_by_its_run_settings(tmp_path: Path) -> None:
    policy = save_policy(tmp_path)
    with serving(lambda body, times: (200, completion())) as server:
        run = SampleRun(generator=OpenAISettings(backend="openai", url=server.url))
        with open_generator(policy, run) as (sampler, _):
            (made,) = sampler.generate(REQUESTS[:1], SamplingParams())
    assert made.token_ids[-1] == EOS
