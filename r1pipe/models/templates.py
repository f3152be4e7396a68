"""Prompts by a tokenizer's chat template, in bounded time and memory.

r1pipe's own template is rendered here. One of a stranger is rendered in a process beside this one
(`template_worker`), which can be killed.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from r1pipe.chat import CHAT_TEMPLATE
from r1pipe.errors import StageError
from r1pipe.models.interfaces import Tokenizer
from r1pipe.text import visible

LIMIT_S, START_S = 10.0, 120.0
"""For one prompt, and for the start of the process that renders it."""
OWN_TEMPLATES = (CHAT_TEMPLATE, "{{ bos_token }}" + CHAT_TEMPLATE)
MAX_SAID = 300
_CHUNK_BYTES = 1 << 16


class TemplateError(ValueError):
    """A chat template refuses a conversation, or is broken; the message is its own."""


def render_ids(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, str]],
    options: Mapping[str, bool | int | str],
    *,
    is_asked: bool,
) -> list[int]:
    """Return the tokens of messages by the tokenizer's chat template, as `render` does the text."""
    text = render(tokenizer, messages, options, is_asked=is_asked)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def render(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, str]],
    options: Mapping[str, bool | int | str],
    *,
    is_asked: bool,
) -> str:
    """Return messages as a text by the tokenizer's chat template, control tokens written out.

    `is_asked` opens the assistant's next turn. Raises TemplateError for what the template itself
    says, StageError if it takes too long or too much memory.
    """
    if tokenizer.chat_template in OWN_TEMPLATES:
        return tokenizer.apply_chat_template(
            messages, add_generation_prompt=is_asked, tokenize=False, **dict(options)
        )
    try:
        asked = {
            "conversations": [list(map(dict, messages))],
            "chat_template": tokenizer.get_chat_template(),
            "add_generation_prompt": is_asked,
            **tokenizer.special_tokens_map,
            **options,
        }
        line = json.dumps(asked)
    except (ValueError, TypeError) as error:
        raise TemplateError(str(error)) from error
    return _worker().render(line.encode() + b"\n")


class Worker:
    """A process that renders; it is started again after it was killed."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self.limit_s = limit_s
        self.owner = os.getpid()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def render(self, line: bytes) -> str:
        """Return the text of one request; raises as `render` does."""
        with self._lock:
            began = time.monotonic()
            if self._process is None:
                self._start()
            try:
                reply = json.loads(self._answer(line, self.limit_s))
            except (OSError, EOFError, ValueError) as error:
                self.close()
                spent = time.monotonic() - began
                raise StageError(
                    f"the model's chat template was ended after {spent:.0f} s: it may take"
                    f" {self.limit_s:g} s and 1 GiB for a prompt, and loops or grows; give the"
                    " model another chat_template.jinja, or import it with params.tags: own"
                ) from error
        if "limit" in reply:
            raise StageError(
                f"the model's chat template takes {reply['limit']}; give the model another"
                " chat_template.jinja, or import it with params.tags: own"
            )
        if "error" in reply:
            raise TemplateError(visible(" ".join(reply["error"].split())[:MAX_SAID]))
        return str(reply["text"])

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()

    def _start(self) -> None:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "r1pipe.models.template_worker"],
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        ready = {"conversations": [[]], "chat_template": "ready"}
        self._answer(json.dumps(ready).encode() + b"\n", START_S)

    def _answer(self, line: bytes, limit_s: float) -> bytes:
        """Send a line and return the one that answers; OSError or EOFError if none comes."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        until, sent, answer = time.monotonic() + limit_s, memoryview(line), bytearray()
        inlet, outlet = self._process.stdin.fileno(), self._process.stdout.fileno()
        with selectors.DefaultSelector() as waiting:
            waiting.register(inlet, selectors.EVENT_WRITE)
            waiting.register(outlet, selectors.EVENT_READ)
            while not answer.endswith(b"\n"):
                if not (events := waiting.select(until - time.monotonic())):
                    raise TimeoutError("no answer in time")
                for key, _ in events:
                    if key.fd == outlet:
                        if not (chunk := os.read(outlet, _CHUNK_BYTES)):
                            raise EOFError("it ended")
                        answer += chunk
                    else:
                        sent = sent[os.write(inlet, sent[:4096]) :]
                        if not sent:
                            waiting.unregister(inlet)
        return bytes(answer)


_shared: Worker | None = None


def _worker() -> Worker:
    """Return this process's worker; a fork has one of its own."""
    global _shared
    if _shared is None or _shared.owner != os.getpid():
        _shared = Worker()
        atexit.register(_shared.close)
    return _shared
