"""Sampling from a server that speaks OpenAI's completions API: `vllm serve`, SGLang and others.

The server must serve the model whose directory the stage was given: prompts go as its token ids,
and what the model's own generation config would change (top-k, penalties) is switched off in every
request. Failures that may pass are tried again, ever later; a request that still fails ends the
unit it belongs to (`SamplingFailed`), and what other units gave is kept.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from r1pipe.errors import StageError
from r1pipe.generate.failures import SamplingFailed
from r1pipe.generate.openai_answers import max_answer_bytes, read_completion, served_names
from r1pipe.generate.openai_client import (
    CONNECT_TIMEOUT_S,
    MAX_DELAY_S,
    Passing,
    ServerClient,
    api_key,
)
from r1pipe.generate.protocol import Request, Sampled, SamplingParams, Weights
from r1pipe.generate.uniforms import short_seed
from r1pipe.keys import JsonObject
from r1pipe.models.interfaces import Tokenizer

if TYPE_CHECKING:
    from r1pipe.generate.openai_backend import OpenAISettings

FIRST_DELAY_S = 0.5
MAX_MODELS_BYTES = 4_194_304
SHOWN_NAMES = 8
NEUTRAL = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}

Answer = TypeVar("Answer")
Results: TypeAlias = "SimpleQueue[Sampled | BaseException | None]"
"""Completions as they come, then what ended the sampling: an error, or None."""


class ServerGenerator:
    """At most `max_concurrency` requests under way; completions are handed on as they come.

    Requests are sent from an event loop in a thread of its own, which no end of the process waits
    for.
    """

    def __init__(
        self, settings: OpenAISettings, tokenizer: Tokenizer, end_ids: Sequence[int]
    ) -> None:
        self.settings = settings
        self.tokenizer = tokenizer
        self.end_ids = list(end_ids)
        key = api_key(settings.api_key_env)
        self._client = ServerClient(settings.url, key, settings.max_concurrency)
        self.url = self._client.url
        self._slots = asyncio.Semaphore(settings.max_concurrency)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="server", daemon=True)
        self._thread.start()
        try:
            self.model = asyncio.run_coroutine_threadsafe(self._served_model(), self._loop).result()
        except BaseException:
            self.close()
            raise

    def generate(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Sampled]:
        """Yield every request's completion once, as it comes.

        Raises SamplingFailed, after what was under way, if a request fails for good; StageError
        at once if the server refuses one.
        """
        results: Results = SimpleQueue()
        task = asyncio.run_coroutine_threadsafe(
            self._sample_all(requests, sampling, results), self._loop
        )
        try:
            while (found := results.get()) is not None:
                if isinstance(found, BaseException):
                    raise found
                yield found
        finally:
            task.cancel()

    def answers(
        self,
        bodies: Sequence[JsonObject],
        max_bytes: Sequence[int],
        read: Callable[[int, bytes], Answer],
    ) -> list[Answer]:
        """Send completion requests as they are; return what `read` makes of (place, answer).

        Raises SamplingFailed if one fails for good, StageError if the server refuses one.
        """

        async def one(place: int) -> Answer:
            async def ask() -> Answer:
                async with self._slots:
                    data = await self._client.ask(
                        "/completions",
                        {"model": self.model, **bodies[place]},
                        timeout_s=self.settings.timeout_s,
                        max_bytes=max_bytes[place],
                    )
                return read(place, data)

            return await self._patiently(ask)

        async def everyone() -> list[Answer]:
            return await asyncio.gather(*map(one, range(len(bodies))))

        task = asyncio.run_coroutine_threadsafe(everyone(), self._loop)
        try:
            return task.result()
        finally:
            task.cancel()

    def load_weights(self, tensors: Weights) -> None:
        """A server takes no weights."""
        raise StageError("an OpenAI-compatible server takes no weights; train with backend vllm")

    def sleep(self) -> None:
        """The server is somewhere else."""

    def close(self) -> None:
        """Give up what is still under way, without waiting for it."""
        with suppress(RuntimeError):  # it is closed already
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _serve(self) -> None:
        """Run the event loop until `close`, then end what is under way."""
        self._loop.run_forever()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()
        await self._loop.shutdown_asyncgens()

    async def _sample_all(
        self, requests: Sequence[Request], sampling: SamplingParams, results: Results
    ) -> None:
        """Put every completion into `results`, and how it ended."""
        waiting, failures = iter(requests), list[SamplingFailed]()

        async def work() -> None:
            for request in waiting:
                if failures:
                    return
                try:
                    results.put(await self._sample(request, sampling))
                except SamplingFailed as failure:
                    failures.append(failure)

        end: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.settings.max_concurrency, len(requests))):
                    group.create_task(work())
        except BaseExceptionGroup as found:
            end = found.exceptions[0]
        except asyncio.CancelledError:
            end = StageError(f"{self.url}: sampling was given up")
            raise
        finally:
            results.put(end or (failures[0] if failures else None))

    async def _sample(self, request: Request, sampling: SamplingParams) -> Sampled:
        """Ask for one completion."""
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
        max_bytes = max_answer_bytes(len(request.prompt_ids), sampling.max_tokens)
        timeout_s = self.settings.timeout_s

        async def ask() -> Sampled:
            async with self._slots:
                data = await self._client.ask(
                    "/completions", body, timeout_s=timeout_s, max_bytes=max_bytes
                )
            return read_completion(
                data, request.index, self.tokenizer, self.end_ids, sampling.max_tokens
            )

        return await self._patiently(ask)

    async def _patiently(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Ask until it works, waiting ever longer; raise SamplingFailed in the end."""
        delay, tries = FIRST_DELAY_S, self.settings.max_retries + 1
        for attempt in range(tries):
            try:
                return await ask()
            except Passing as failure:
                last = failure
            if attempt + 1 < tries:
                pause = max(last.delay_s, delay * random.uniform(0.75, 1.25))
                await asyncio.sleep(min(pause, MAX_DELAY_S))
                delay *= 2
        raise SamplingFailed(
            f"{self.url} failed {tries} times for one request; the last time:"
            f" {self._client.shown(str(last))}"
        )

    async def _served_model(self) -> str:
        """Return the model's name there: the one asked for, or the only one."""

        async def ask() -> list[str]:
            data = await self._client.ask(
                "/models", None, timeout_s=CONNECT_TIMEOUT_S, max_bytes=MAX_MODELS_BYTES
            )
            return served_names(data)

        names, wanted = await self._patiently(ask), self.settings.model
        if wanted is None and len(names) == 1:
            return names[0]
        if wanted is None or wanted not in names:
            listed = self._client.shown(", ".join(names[:SHOWN_NAMES])) or "no model"
            more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
            raise StageError(f"{self.url} serves {listed}{more}; name one in run.generator.model")
        return wanted
