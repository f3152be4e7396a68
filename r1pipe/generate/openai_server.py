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
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from r1pipe.errors import StageError
from r1pipe.generate.failures import SamplingFailed
from r1pipe.generate.openai_answers import read_completion, served_names
from r1pipe.generate.openai_client import (
    CONNECT_TIMEOUT_S,
    MAX_DELAY_S,
    Limits,
    Passing,
    Refused,
    ServerClient,
    api_key,
)
from r1pipe.generate.openai_stream import followed, stream_limits
from r1pipe.generate.protocol import Request, Sampled, SamplingParams, Weights
from r1pipe.generate.scheduler import Answer, Scheduler, over_engines
from r1pipe.generate.uniforms import short_seed
from r1pipe.keys import JsonObject
from r1pipe.models.interfaces import Tokenizer

if TYPE_CHECKING:
    from r1pipe.generate.openai_backend import OpenAISettings

FIRST_DELAY_S = 0.5
MAX_MODELS_BYTES = 4_194_304
SHOWN_NAMES = 8
CHECKED_EVERY_S = 0.1
"""How often whoever is told text is asked whether to go on."""
NO_EVENTS = frozenset({400, 415, 422, 501})
"""Refusals that may mean that a server sends no events."""
NEUTRAL = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}

Found = TypeVar("Found")
Results: TypeAlias = "SimpleQueue[tuple[int, Answer | str]]"
"""Answers, and texts of those under way, with the number of the server they are of."""


@dataclass
class _Server:
    """One server: how it is reached, and what is under way there."""

    client: ServerClient
    slots: asyncio.Semaphore
    model: str = ""
    is_lost: bool = False
    has_events: bool = True
    """Whether answers may come in events."""
    tasks: set[Future[None]] = field(default_factory=set)


class ServerGenerator:
    """At most `max_concurrency` requests under way at each server; completions are handed on as
    they come.

    Requests are sent from an event loop in a thread of its own, which no end of the process waits
    for.
    """

    def __init__(
        self, settings: OpenAISettings, tokenizer: Tokenizer, end_ids: Sequence[int]
    ) -> None:
        self.settings = settings
        self.tokenizer = tokenizer
        self.end_ids = list(end_ids)
        self.num_slots = settings.concurrency(0)
        self.losses: list[str] = []
        self.on_text: Callable[[str], None] | None = None
        key, limit = api_key(settings.api_key_env), settings.max_concurrency
        self._servers = [
            _Server(ServerClient(url, key, limit), asyncio.Semaphore(limit))
            for url in settings.urls
        ]
        self._results: Results = SimpleQueue()
        self._sampling = SamplingParams()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="server", daemon=True)
        self._thread.start()
        try:
            self._name_models()
        except BaseException:
            self.close()
            raise

    def _name_models(self) -> None:
        """Ask every server for its model; one that is not there is asked again when it is sent a
        request. Raises SamplingFailed if none is there, StageError of a model that is not served.
        """
        asked = [
            asyncio.run_coroutine_threadsafe(self._served_model(server), self._loop)
            for server in self._servers
        ]
        failures = []
        for server, named in zip(self._servers, asked, strict=True):
            try:
                server.model = named.result()
            except SamplingFailed as failure:
                failures.append(failure)
        if len(failures) == len(self._servers):
            raise failures[0]
        self.losses += [f"{failure}; requests go to the other servers" for failure in failures]

    def generate(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Sampled]:
        """Yield every request's completion once, as it comes."""
        yield from self.stream(iter(requests), sampling)

    def stream(
        self, requests: Iterator[Request | None], sampling: SamplingParams
    ) -> Iterator[Sampled]:
        """Yield every request's completion once, as it comes; send new ones meanwhile.

        A server where a request fails for good leaves its requests to the others. Raises
        SamplingFailed, after what was under way, if the last one fails; StageError at once if a
        server refuses a request.
        """
        self._results, self._sampling = SimpleQueue(), sampling
        for server in self._servers:
            server.is_lost = False  # it may be there again
        scheduler = Scheduler([self.settings.max_concurrency] * len(self._servers))
        try:
            yield from over_engines(scheduler, self, requests)
        finally:
            for engine in range(len(self._servers)):
                self._cancel(engine)

    def send(self, engine: int, request: Request) -> None:
        """Have a request sent to one server as soon as it has a slot free."""
        work = self._work(engine, request, self._sampling, self._results)
        task = asyncio.run_coroutine_threadsafe(work, self._loop)
        self._servers[engine].tasks.add(task)
        task.add_done_callback(self._servers[engine].tasks.discard)

    def answer(self) -> tuple[int, Answer]:
        """Wait for the next completion, or failure, of any server; raise what no other can mend."""
        while True:
            engine, answer = self._next()
            if not isinstance(answer, str):
                break
            if self.on_text is not None:
                self.on_text(answer)
        if isinstance(answer, Exception) and not isinstance(answer, SamplingFailed):
            raise answer
        return engine, answer

    def _next(self) -> tuple[int, Answer | str]:
        """Wait for an answer or a text; whoever is told may end the waiting."""
        while self.on_text is not None:
            with suppress(Empty):
                return self._results.get(timeout=CHECKED_EVERY_S)
            self.on_text("")
        return self._results.get()

    def give_up(self, engine: int, why: Exception, num_moved: int) -> None:
        """Leave a server until the next sampling."""
        self._servers[engine].is_lost = True
        self.losses.append(f"{why}; {num_moved} requests went to other servers")
        self._cancel(engine)

    def _cancel(self, engine: int) -> None:
        for task in list(self._servers[engine].tasks):
            task.cancel()

    @property
    def url(self) -> str:
        """The address of the first server that is there."""
        return self._first.client.url

    @property
    def model(self) -> str:
        """The model's name there."""
        return self._first.model

    @property
    def _first(self) -> _Server:
        return next(server for server in self._servers if server.model)

    def answers(
        self,
        bodies: Sequence[JsonObject],
        max_bytes: Sequence[int],
        read: Callable[[int, bytes], Found],
    ) -> list[Found]:
        """Send requests as they are to the first server there; return what `read` makes of each
        answer, whose place it is given too.

        Raises SamplingFailed if one fails for good, StageError if the server refuses one.
        """
        server = self._first

        async def one(place: int) -> Found:
            async def ask() -> Found:
                async with server.slots:
                    data = await server.client.ask(
                        "/completions",
                        {"model": server.model, **bodies[place]},
                        Limits(self.settings.timeout_s, max_bytes[place]),
                    )
                return read(place, data)

            return await self._patiently(server.client, ask)

        async def everyone() -> list[Found]:
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
        for server in self._servers:
            await server.client.close()
        await self._loop.shutdown_asyncgens()

    async def _work(
        self, engine: int, request: Request, sampling: SamplingParams, results: Results
    ) -> None:
        """Put a request's completion, or why there is none, into the results."""
        server = self._servers[engine]
        try:
            results.put((engine, await self._sample(engine, request, sampling, results)))
        except SamplingFailed as failure:
            results.put((engine, SamplingFailed(str(failure), request.index)))
        except asyncio.CancelledError:
            if not server.is_lost:
                url = server.client.url
                results.put((engine, StageError(f"{url}: sampling was given up")))
            raise
        except Exception as error:  # noqa: BLE001 - raised where the results are read
            results.put((engine, error))

    async def _sample(
        self, engine: int, request: Request, sampling: SamplingParams, results: Results
    ) -> Sampled:
        """Ask for one completion."""
        server = self._servers[engine]
        if not server.model:
            server.model = await self._served_model(server)
        body = {
            "model": server.model,
            "prompt": list(request.prompt_ids),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p if sampling.temperature else 1.0,
            "seed": short_seed(request.seed),
            "stop_token_ids": self.end_ids,
            "return_token_ids": True,
            **NEUTRAL,
        }
        most = sampling.max_tokens
        limits = stream_limits(len(request.prompt_ids), most, self.settings.timeout_s)
        client, is_told = server.client, self.on_text

        def read(data: bytes) -> Sampled:
            return read_completion(data, request.index, self.tokenizer, self.end_ids, most)

        def tell(text: str) -> None:
            results.put((engine, text))

        async def ask() -> Sampled:
            async with server.slots:
                if is_told is None or not server.has_events:
                    return read(await client.ask("/completions", body, limits))
                try:
                    return await followed(client, body, limits, tell, read)
                except Refused as refusal:
                    if refusal.status not in NO_EVENTS:
                        raise
                sampled = read(await client.ask("/completions", body, limits))
                server.has_events = False
                return sampled

        return await self._patiently(client, ask)

    async def _patiently(self, client: ServerClient, ask: Callable[[], Awaitable[Found]]) -> Found:
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
            f"{client.url} failed {tries} times for one request; the last time:"
            f" {client.shown(str(last))}"
        )

    async def _served_model(self, server: _Server) -> str:
        """Return the model's name there: the one asked for, or the only one."""
        client = server.client

        async def ask() -> list[str]:
            limits = Limits(CONNECT_TIMEOUT_S, MAX_MODELS_BYTES)
            return served_names(await client.ask("/models", None, limits))

        names, wanted = await self._patiently(client, ask), self.settings.model
        if wanted is None and len(names) == 1:
            return names[0]
        if wanted is None or wanted not in names:
            listed = client.shown(", ".join(names[:SHOWN_NAMES])) or "no model"
            more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
            raise StageError(
                f"{client.url} serves {listed}{more}; name one in run.generator.model, or with"
                " --model in a chat"
            )
        return wanted
