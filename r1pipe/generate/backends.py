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
        around = len(encode_prompt(tokenizer, "?", self.format))
        longest = max((_most_bytes(each.prompt) for each in self.problems), default=0)
        return around + MARGIN_TOKENS + longest + self.max_tokens


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

    With `prompts` it has room for those. A server (backend openai) computes in a precision of its
    own.
    """
    tokenizer = load_tokenizer(folder)
    if prompts is not None:
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
