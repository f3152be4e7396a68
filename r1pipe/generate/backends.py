"""Opening a generator on a sealed model directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from r1pipe.generate.in_process import TransformersGenerator
from r1pipe.generate.protocol import Generator
from r1pipe.models.policy import end_ids, freeze, load_model, load_tokenizer
from r1pipe.settings import SampleRun
from r1pipe.workers import num_workers


@contextmanager
def open_generator(folder: Path, run: SampleRun) -> Iterator[tuple[Generator, Any]]:
    """Yield a generator for the model in `folder`, and its tokenizer; close it at the end."""
    model = freeze(load_model(folder, device=run.device))
    tokenizer = load_tokenizer(folder)
    generator = generator_of(model, tokenizer, run)
    try:
        yield generator, tokenizer
    finally:
        generator.close()


def generator_of(model: Any, tokenizer: Any, run: SampleRun) -> Generator:
    """Return a generator that samples from this very model, whatever its weights become."""
    return TransformersGenerator(
        model,
        end_ids=end_ids(model, tokenizer),
        pad_id=tokenizer.pad_token_id,
        max_batch=run.max_batch,
        workers=num_workers(run.workers, run.device),
    )
