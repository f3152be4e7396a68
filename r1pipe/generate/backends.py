"""Opening a generator: on a sealed model directory, or beside a policy that is being trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from unicodedata import normalize

from r1pipe.chat import AnyFormat
from r1pipe.generate.protocol import Generator, GeneratorBackend
from r1pipe.generate.room import no_room
from r1pipe.generator_settings import SampleRun
from r1pipe.models.interfaces import LanguageModel, Tokenizer
from r1pipe.models.policy import load_tokenizer
from r1pipe.models.prompts import encode_prompt, max_positions
from r1pipe.records import Problem
from r1pipe.settings import Precision

SomeRun = TypeVar("SomeRun", bound=SampleRun)
MARGIN_TOKENS = 16
"""For what a template writes between a prompt's first and last token and its own."""


@dataclass(frozen=True)
class Prompts:
    """All prompts of a stage, as far as they decide how much room a completion needs."""

    problems: Sequence[Problem]
    format: AnyFormat
    max_tokens: int
    """Of a completion."""

    def most_tokens(self, tokenizer: Tokenizer) -> int:
        """Return a number of tokens that no prompt has more of with its completion.

        A token stands for a byte of text at least, so nothing but what surrounds a prompt is
        tokenized.
        """
        longest = max((_most_bytes(each.prompt) for each in self.problems), default=0)
        return self._around(tokenizer) + longest + self.max_tokens

    def check_room(self, tokenizer: Tokenizer, limit: int | None) -> None:
        """Raise StageError if prompts leave no room in `limit` tokens for a completion.

        All are looked at before the first is sampled: else one of them would end a stage when its
        turn comes, after hours. Only those of enough bytes are tokenized.
        """
        if limit is None or not self.problems:
            return
        spare = limit - self._around(tokenizer)
        prompts = {each.prompt for each in self.problems}
        counts = {
            prompt: len(encode_prompt(tokenizer, prompt, self.format))
            for prompt in prompts
            if _most_bytes(prompt) >= spare
        }
        too_long = {prompt: count for prompt, count in counts.items() if count >= limit}
        if too_long:
            most = min(map(len, too_long)) - 1
            drop = f"leave them out with params.max_chars: {most} of the stage of kind `problems`"
            raise no_room(list(too_long.values()), len(prompts), limit, drop)

    def _around(self, tokenizer: Tokenizer) -> int:
        """Return the tokens around a question, and some to spare."""
        return len(encode_prompt(tokenizer, "?", self.format)) + MARGIN_TOKENS


def _most_bytes(text: str) -> int:
    """Return the bytes of a text, also as a tokenizer may spell its characters."""
    return max(len(text.encode()), len(normalize("NFKC", text).encode()))


@contextmanager
def open_generator(
    folder: Path,
    run: SampleRun,
    precision: Precision = "float32",
    prompts: Prompts | None = None,
) -> Iterator[tuple[Generator, Tokenizer]]:
    """Yield a generator for the model in `folder`, and its tokenizer; close it at the end.

    With `prompts` it has room for those; raises StageError if one of them leaves none for a
    completion. A server (backend openai) has a precision and a context of its own.
    """
    tokenizer = load_tokenizer(folder)
    if prompts is not None:
        if run.generator.backend != "openai":
            prompts.check_room(tokenizer, max_positions(folder))
        run = fitted(run, folder, tokenizer, prompts)
    generator = _backend(run).open_sealed(folder, tokenizer, run, precision)
    try:
        yield generator, tokenizer
    finally:
        generator.close()


def fitted(run: SomeRun, folder: Path, tokenizer: Tokenizer, prompts: Prompts) -> SomeRun:
    """Return `run` with a generator that has no more room than prompts and the folder's model
    need."""

    def most_tokens() -> int:
        limit, most = max_positions(folder), prompts.most_tokens(tokenizer)
        return most if limit is None else min(most, limit)

    return run.model_copy(update={"generator": _backend(run).fitted(most_tokens)})


def generator_of(
    model: LanguageModel,
    tokenizer: Tokenizer,
    run: SampleRun,
    num_ranks: int = 1,
    precision: Precision = "float32",
) -> Generator:
    """Return a generator for a policy that is being trained, loaded from a folder.

    transformers samples from the very model, whatever its weights become; vLLM has its own, which
    `load_weights` replaces. In a stage of several ranks, all of them call this together.
    """
    return _backend(run).open_beside(model, tokenizer, run, num_ranks, precision)


def _backend(run: SampleRun) -> GeneratorBackend:
    settings = run.generator
    assert isinstance(settings, GeneratorBackend), f"{settings!r} cannot open a generator"
    return settings
