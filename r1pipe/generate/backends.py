"""Opening a generator: on a sealed model directory, or beside a policy that is being trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from r1pipe.generate.protocol import Generator, GeneratorBackend
from r1pipe.generator_settings import SampleRun
from r1pipe.models.interfaces import LanguageModel, Tokenizer
from r1pipe.models.policy import load_tokenizer
from r1pipe.settings import Precision


@contextmanager
def open_generator(
    folder: Path, run: SampleRun, precision: Precision = "float32"
) -> Iterator[tuple[Generator, Tokenizer]]:
    """Yield a generator for the model in `folder`, and its tokenizer; close it at the end.

    A server (backend openai) computes in a precision of its own.
    """
    tokenizer = load_tokenizer(folder)
    generator = _backend(run).open_sealed(folder, tokenizer, run, precision)
    try:
        yield generator, tokenizer
    finally:
        generator.close()


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
