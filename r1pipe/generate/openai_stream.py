"""One completion in events, as a server sends them while it samples, each read strictly.

An event's data is an answer with the text, and perhaps the token ids, that are new; `[DONE]` ends
them. All of them together are read as an answer that comes whole is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Literal, TypeVar

from pydantic import Field, JsonValue

from r1pipe.generate.failures import SamplingFailed
from r1pipe.generate.openai_answers import (
    OTHER_BYTES,
    AnswerModel,
    TokenId,
    max_answer_bytes,
    read_answer,
)
from r1pipe.generate.openai_client import Limits, Passing, ServerClient
from r1pipe.keys import JsonObject

END = "[DONE]"
EXTRA_S = 1.0
"""Seconds that an answer may take longer for each text that came."""
STREAM_BYTES_PER_TOKEN = 1024
"""As `openai_answers.BYTES_PER_TOKEN`, of events, each of which has all names of fields."""

Found = TypeVar("Found")


class _Part(AnswerModel):
    index: Literal[0] = 0
    finish_reason: Literal["stop", "length"] | None = None
    text: str | None = None
    token_ids: list[TokenId] | None = None


class _Event(AnswerModel):
    choices: Annotated[list[_Part], Field(default=[], max_length=1)]
    error: JsonValue = None


def stream_limits(prompt_tokens: int, max_tokens: int, timeout_s: float) -> Limits:
    """Return what one completion may take, in events or whole."""
    stream = OTHER_BYTES + STREAM_BYTES_PER_TOKEN * (prompt_tokens + max_tokens)
    return Limits(timeout_s, max_answer_bytes(prompt_tokens, max_tokens), stream)


class StreamedCompletion:
    """Reads the events of one completion, and tells their text."""

    def __init__(self, tell: Callable[[str], None], max_tokens: int) -> None:
        self._tell = tell
        self._max_tokens = max_tokens
        self._texts: list[str] = []
        self._ids: list[int] = []
        self._has_ids = self._has_text = True
        self._reason: str | None = None
        self._is_done = False

    @property
    def is_done(self) -> bool:
        """Whether the end was said."""
        return self._is_done

    @property
    def extra_s(self) -> float:
        """Return a second for each text, and no more than for `max_tokens` of them."""
        return EXTRA_S * min(len(self._texts), self._max_tokens)

    @property
    def has_told(self) -> bool:
        """Whether any text was told."""
        return bool(self._texts)

    def take(self, data: str) -> None:
        """Read one event's data. Raises Passing for what is no part of a completion."""
        if not data.strip():  # an event of other fields
            return
        if data.strip() == END:
            self.finish()
            return
        event = read_answer(_Event, data.encode(errors="surrogatepass"))
        if event.error is not None:
            raise Passing(f"the server broke off: {json.dumps(event.error, ensure_ascii=False)}")
        for part in event.choices:
            self._add(part)

    def finish(self) -> None:
        """Note that nothing follows. Raises Passing if the completion has no end."""
        if self._reason is None:
            raise Passing("the events ended before the completion did")
        self._is_done = True

    def whole(self) -> bytes:
        """Return the answer that would have come without events."""
        choice = {
            "text": "".join(self._texts) if self._has_text else None,
            "finish_reason": self._reason,
            "token_ids": self._ids if self._has_ids else None,
        }
        return json.dumps({"choices": [choice]}).encode()

    def _add(self, part: _Part) -> None:
        if self._reason is not None and (part.text or part.token_ids):
            raise Passing("an event with text after the completion's end")
        if part.token_ids:
            self._ids += part.token_ids
            self._has_text = self._has_text and part.text is not None
        self._reason = self._reason or part.finish_reason
        if part.text:
            self._has_ids = self._has_ids and part.token_ids is not None
            self._texts.append(part.text)
            self._tell(part.text)


async def followed(
    client: ServerClient,
    body: JsonObject,
    limits: Limits,
    tell: Callable[[str], None],
    read: Callable[[bytes], Found],
) -> Found:
    """Ask for a completion in events; tell their text; return what `read` makes of it whole.

    A server may send it whole too, of which nothing is told. What was told cannot be taken back:
    a failure after that is SamplingFailed, since nothing is to be asked again.
    """
    told = StreamedCompletion(tell, body["max_tokens"])
    try:
        data = await client.follow("/completions", {**body, "stream": True}, told, limits)
        return read(told.whole() if data is None else data)
    except Passing as failure:
        if not told.has_told:
            raise
        raise SamplingFailed(f"{client.url} broke off: {client.shown(str(failure))}") from None
