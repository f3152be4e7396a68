"""A client that asks a hostile server, mode by mode, and what became of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

from hostile_server import KEY, MODES, NUM_GOOD, Hostile
from tiny import tokenizer

from r1pipe.errors import StageError
from r1pipe.generate.failures import SamplingFailed
from r1pipe.generate.openai_backend import OpenAISettings
from r1pipe.generate.openai_server import ServerGenerator
from r1pipe.generate.protocol import Request, Sampled, SamplingParams

KEY_VARIABLE = "HOSTILE_KEY"
MAX_TOKENS, AT_ONCE = 32, 24
TIMEOUT_S, SHORT_TIMEOUT_S = 60.0, 0.5
"""A deadline that a busy machine keeps, and one for the modes that end by it alone."""


@dataclass
class Outcome:
    """How sampling from one mode ended; `end` is the error's name where none was expected."""

    mode: str
    end: str = "taken"
    message: str = ""
    seconds: float = 0.0
    made: list[Sampled] = field(default_factory=list)


def attack(server: Hostile, mode: str, listens: bool = False) -> Outcome:
    """Ask for one completion more than are answered well, perhaps in events."""
    outcome, began = Outcome(mode), time.monotonic()
    settings = OpenAISettings(
        backend="openai",
        url=server.url(mode),
        api_key_env=KEY_VARIABLE,
        max_concurrency=1,
        max_retries=1,
        timeout_s=TIMEOUT_S,
    )
    requests = [Request((5, 6, 7), i, i) for i in range(NUM_GOOD + 1)]
    parts = [requests[:NUM_GOOD], requests[NUM_GOOD:]] if MODES[mode].is_slow else [requests]
    try:
        generator = ServerGenerator(settings, tokenizer(), [tokenizer().eos_token_id])
        generator.on_text = (lambda text: None) if listens else None
        with closing(generator):
            for part in parts:
                for sampled in generator.generate(part, SamplingParams(max_tokens=MAX_TOKENS)):
                    outcome.made.append(sampled)
                generator.settings = settings.model_copy(update={"timeout_s": SHORT_TIMEOUT_S})
    except SamplingFailed as failure:
        outcome.end, outcome.message = "failed", str(failure)
    except StageError as error:
        outcome.end, outcome.message = "refused", str(error)
    except Exception as error:  # noqa: BLE001 - whatever it is, the table of ends does not have it
        outcome.end, outcome.message = type(error).__name__, str(error)
    outcome.seconds = time.monotonic() - began
    return outcome


def attacks(server: Hostile, listens: bool = False) -> Iterator[Outcome]:
    """Yield the outcome of every mode; some are asked at once, since most of it is waiting."""
    os.environ[KEY_VARIABLE] = KEY
    tokenizer()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(lambda mode: attack(server, mode, listens), MODES)
