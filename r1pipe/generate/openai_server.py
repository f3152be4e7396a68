"""Sampling from a server that speaks OpenAI's completions API: `vllm serve`, SGLang and others.

The server must serve the model whose directory the stage was given: prompts go as its token ids,
and what the model's own generation config would change (top-k, penalties) is switched off in every
request. Failures that may pass are tried again, ever later; a request that still fails ends the
unit it belongs to (`SamplingFailed`), and what other units gave is kept.
"""

from __future__ import annotations

import json
import os
import random
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from http.client import HTTPException
from typing import TYPE_CHECKING, TypeVar
from urllib.error import HTTPError
from urllib.parse import urlsplit

from r1pipe.errors import StageError
from r1pipe.generate.failures import SamplingFailed
from r1pipe.generate.protocol import Request, Sampled, SamplingParams, Weights
from r1pipe.generate.uniforms import short_seed
from r1pipe.keys import JsonObject
from r1pipe.models.interfaces import Tokenizer
from r1pipe.records import FinishReason

if TYPE_CHECKING:
    from r1pipe.generate.openai_backend import OpenAISettings

MAY_PASS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
FIRST_DELAY_S, MAX_DELAY_S = 0.5, 60.0
CONNECT_TIMEOUT_S = 30.0
SHOWN_CHARS = 300
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
FINISHED = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}
NEUTRAL = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}

Answer = TypeVar("Answer")


class _Passing(Exception):  # noqa: N818 - it is caught here, always
    """A failure that may pass; `delay_s` is what the server asked for."""

    def __init__(self, message: str, delay_s: float = 0.0) -> None:
        super().__init__(message)
        self.delay_s = delay_s


class ServerGenerator:
    """At most `max_concurrency` requests under way; completions are handed on as they come."""

    def __init__(
        self, settings: OpenAISettings, tokenizer: Tokenizer, end_ids: Sequence[int]
    ) -> None:
        self.settings = settings
        self.tokenizer = tokenizer
        self.end_ids = list(end_ids)
        self.url = settings.url.rstrip("/")
        is_local = urlsplit(self.url).hostname in LOCAL_HOSTS
        proxies = [urllib.request.ProxyHandler({})] if is_local else []
        self._opener = urllib.request.build_opener(*proxies)
        self._closed = threading.Event()
        self._pool = ThreadPoolExecutor(settings.max_concurrency, "server")
        self.model = self._served_model()

    def generate(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Sampled]:
        """Yield every request's completion once, as it comes.

        Raises SamplingFailed, after what was under way, if a request fails for good; StageError
        at once if the server refuses one.
        """
        stop = threading.Event()
        futures = [self._pool.submit(self._sample, r, sampling, stop) for r in requests]
        failures: list[SamplingFailed] = []
        try:
            for future in as_completed(futures):
                sampled = _result(future, failures)
                if sampled is not None:
                    yield sampled
                elif failures:
                    stop.set()
        finally:
            stop.set()
            for future in futures:
                future.cancel()
        if failures:
            raise failures[0]

    def load_weights(self, tensors: Weights) -> None:
        """A server takes no weights."""
        raise StageError("an OpenAI-compatible server takes no weights; train with backend vllm")

    def sleep(self) -> None:
        """The server is somewhere else."""

    def close(self) -> None:
        """Give up what is still under way."""
        self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _sample(
        self, request: Request, sampling: SamplingParams, stop: threading.Event
    ) -> Sampled | None:
        """Ask for one completion; None if sampling was stopped before."""
        if stop.is_set():
            return None
        body = {
            "model": self.model,
            "prompt": list(request.prompt_ids),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p if sampling.temperature else 1.0,
            "seed": short_seed(request.seed),
            "stop_token_ids": self.end_ids,
            "return_token_ids": True,
            **NEUTRAL,
        }
        return self._patiently(
            lambda: self._sampled_of(self._call("/completions", body), request.index), stop
        )

    def _patiently(self, ask: Callable[[], Answer], stop: threading.Event) -> Answer | None:
        """Ask until it works, waiting ever longer; raise SamplingFailed in the end.

        None if `stop` or `close` came between.
        """
        delay = FIRST_DELAY_S
        for attempt in range(self.settings.max_retries + 1):
            try:
                return ask()
            except _Passing as failure:
                last = failure
            if attempt < self.settings.max_retries:
                pause = max(last.delay_s, delay * random.uniform(0.75, 1.25))
                if stop.wait(min(pause, MAX_DELAY_S)) or self._closed.is_set():
                    return None
                delay *= 2
        raise SamplingFailed(
            f"{self.url} failed {self.settings.max_retries + 1} times for one request; the last"
            f" time: {last}"
        )

    def _sampled_of(self, answer: JsonObject, index: int) -> Sampled:
        """Return the completion in an answer; its ids, or those of its text."""
        try:
            (choice,) = answer["choices"]
            reason = FINISHED[choice["finish_reason"]]
            ids = choice.get("token_ids")
            if ids is None:
                ids = self.tokenizer(choice["text"], add_special_tokens=False)["input_ids"]
        except (KeyError, TypeError, ValueError) as error:
            raise _Passing(f"an answer without a completion: {error!r}") from None
        ids = [int(i) for i in ids]
        if reason is FinishReason.STOP and not set(ids[-1:]) & set(self.end_ids):
            ids.append(self.tokenizer.eos_token_id)
        return Sampled(index, ids, [], reason)

    def _served_model(self) -> str:
        """Return the model's name there: the one asked for, or the only one."""
        answer = self._patiently(lambda: self._call("/models"), self._closed) or {}
        names = [str(each.get("id")) for each in answer.get("data", [])]
        wanted = self.settings.model
        if wanted is None and len(names) == 1:
            return names[0]
        if wanted is None or wanted not in names:
            raise StageError(
                f"{self.url} serves {', '.join(names) or 'no model'};"
                " name one in run.generator.model"
            )
        return wanted

    def _call(self, path: str, body: JsonObject | None = None) -> JsonObject:
        """Send one request; _Passing if another try may help, StageError if it may not."""
        data = None if body is None else json.dumps(body).encode()
        url = self.url + path  # the manifest says which server, and is trusted
        request = urllib.request.Request(url, data, headers=self._headers())  # noqa: S310
        timeout = CONNECT_TIMEOUT_S if body is None else self.settings.timeout_s
        try:
            with self._opener.open(request, timeout=timeout) as answer:
                value = json.loads(answer.read())
        except HTTPError as error:
            text = error.read().decode(errors="replace")[:SHOWN_CHARS].strip()
            if error.code in MAY_PASS:
                raise _Passing(f"HTTP {error.code} {text}", _asked_delay(error)) from None
            raise StageError(f"{self.url}{path} refuses: HTTP {error.code} {text}") from None
        except (OSError, HTTPException, ValueError) as error:
            raise _Passing(str(error) or type(error).__name__) from None
        if not isinstance(value, dict):
            raise _Passing("an answer that is no JSON object")
        return value

    def _headers(self) -> dict[str, str]:
        key = os.environ.get(self.settings.api_key_env)
        headers = {"Content-Type": "application/json"}
        return headers | ({"Authorization": f"Bearer {key}"} if key else {})


def _result(future: Future[Sampled | None], failures: list[SamplingFailed]) -> Sampled | None:
    """Return what a request gave; note a failure for later."""
    try:
        return future.result()
    except SamplingFailed as failure:
        failures.append(failure)
        return None


def _asked_delay(error: HTTPError) -> float:
    """Return the seconds that a server asks to wait; 0 if it gives no number."""
    try:
        return float(error.headers.get("Retry-After", 0))
    except ValueError:
        return 0.0
