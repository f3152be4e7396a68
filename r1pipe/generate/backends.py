"""Opening a generator: on a sealed model directory, or beside a policy that is being trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import AutoConfig, GenerationConfig

from r1pipe.errors import StageError
from r1pipe.generate.in_process import TransformersGenerator
from r1pipe.generate.protocol import Generator
from r1pipe.models.policy import end_ids, freeze, load_model, load_tokenizer
from r1pipe.models.precision import dtype_of
from r1pipe.settings import Precision, SampleRun
from r1pipe.workers import num_workers


@contextmanager
def open_generator(
    folder: Path, run: SampleRun, precision: Precision = "float32"
) -> Iterator[tuple[Generator, Any]]:
    """Yield a generator for the model in `folder`, and its tokenizer; close it at the end.

    A server (backend openai) computes in a precision of its own.
    """
    tokenizer = load_tokenizer(folder)
    generator = _sealed(folder, tokenizer, run, precision)
    try:
        yield generator, tokenizer
    finally:
        generator.close()


def _sealed(folder: Path, tokenizer: Any, run: SampleRun, precision: Precision) -> Generator:
    settings = run.generator
    if settings.backend == "transformers":
        model = freeze(load_model(folder, dtype=dtype_of(precision), device=run.device))
        return _transformers(model, tokenizer, run, precision)
    ends = stored_end_ids(folder, tokenizer)
    if settings.backend == "openai":
        from r1pipe.generate.openai_server import ServerGenerator

        return ServerGenerator(settings, tokenizer, ends)
    from r1pipe.generate.replicas import ReplicaGenerator
    from r1pipe.generate.vllm_engine import EngineShape, VllmGenerator

    shape = EngineShape(folder, tuple(ends), precision, run.device)
    if settings.data_parallel > 1:
        return ReplicaGenerator(shape, settings)
    return VllmGenerator(shape, settings)


def generator_of(
    model: Any,
    tokenizer: Any,
    run: SampleRun,
    num_ranks: int = 1,
    precision: Precision = "float32",
) -> Generator:
    """Return a generator for a policy that is being trained, loaded from a folder.

    transformers samples from the very model, whatever its weights become; vLLM has its own, which
    `load_weights` replaces. In a stage of several ranks, all of them call this together.
    """
    settings = run.generator
    if settings.backend == "transformers":
        return _transformers(model, tokenizer, run, precision)
    if settings.backend == "openai":
        raise StageError(
            "run.generator.backend openai cannot follow a policy that is being trained, since a"
            " server takes no weights; use vllm or transformers"
        )
    if settings.data_parallel > 1 or (num_ranks > 1 and settings.tensor_parallel > 1):
        raise StageError(
            "where a policy is trained, each of its processes has one engine of its own: leave out"
            " run.generator.data_parallel, and with several processes tensor_parallel too"
        )
    from r1pipe.generate.vllm_engine import EngineShape, VllmGenerator

    shape = EngineShape(
        Path(model.name_or_path),
        tuple(end_ids(model, tokenizer)),
        precision,
        device=run.device,
        is_shared=True,
        is_ranked=num_ranks > 1,
    )
    return VllmGenerator(shape, settings)


def _transformers(model: Any, tokenizer: Any, run: SampleRun, precision: Precision) -> Generator:
    return TransformersGenerator(
        model,
        end_ids=end_ids(model, tokenizer),
        pad_id=tokenizer.pad_token_id,
        max_batch=run.max_batch,
        workers=num_workers(run.workers, run.device),
        precision=precision,
    )


def stored_end_ids(folder: Path, tokenizer: Any) -> list[int]:
    """Return every token id that ends a completion, without loading the model."""
    if (folder / "generation_config.json").exists():
        config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    else:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    return end_ids(SimpleNamespace(generation_config=config), tokenizer)
