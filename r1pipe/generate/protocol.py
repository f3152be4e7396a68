"""Generators: requests in, completions out as they finish; and the settings that open one.

A backend is a file with the class of its settings (`GeneratorBackend`) and a line in
`r1pipe.generator_settings.GENERATORS`. The file is read whenever a manifest is, so what is heavy is
imported when a method is called.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from r1pipe.generator_settings import GeneratorSettings, SampleRun
from r1pipe.models.interfaces import LanguageModel, Tokenizer
from r1pipe.records import FinishReason
from r1pipe.settings import Precision

if TYPE_CHECKING:
    from torch import Tensor

    from r1pipe.generate.weight_group import Meeting

Weights: TypeAlias = "Iterable[tuple[str, Tensor]]"
"""Parameters of a policy with their names, one after the other."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are drawn. `temperature` 0 means the most likely token; `top_p` 1 cuts nothing.

    Without `logprobs` a backend may leave them out, which some do faster.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256
    logprobs: bool = True


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to sample; its tokens depend only on prompt, sampling and seed, as far as a
    backend's arithmetic does not depend on the batch."""

    prompt_ids: tuple[int, ...]
    seed: int
    index: int
    """The caller's number for this request; it comes back with the result."""


def in_prompt_order(request: Request) -> tuple[int, tuple[int, ...], int]:
    """Return what sorts requests so that equal and equally long prompts are together."""
    return len(request.prompt_ids), request.prompt_ids, request.index


@dataclass(frozen=True, slots=True)
class Sampled:
    """Tokens of one request (end-of-sequence included), and the log-probability of each one under
    the distribution it was drawn from: after the temperature, before any top-p cut. There are none
    if they were not asked for, or the backend does not know them (vLLM after a cut, a server).
    """

    index: int
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    is_sampled: list[bool] | None = None
    """Which tokens were sampled, where some are outputs of tools; None is all."""

    @property
    def written_ids(self) -> list[int]:
        """The tokens of the completion's text: without its end of sequence, if it has one."""
        return self.token_ids[:-1] if self.finish_reason is FinishReason.STOP else self.token_ids


class Generator(Protocol):
    """Every backend passes one conformance suite. A backend that need not have all requests before
    it begins is a `StreamingGenerator` too."""

    def generate(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Sampled]:
        """Yield every request's completion once, as it finishes (in any order)."""

    def load_weights(self, tensors: Weights) -> None:
        """Replace the sampler's weights by those of the policy, by name; wakes it up."""

    def sleep(self) -> None:
        """Free what the trainer can use, until weights are loaded; nothing if that is little."""

    def close(self) -> None:
        """Free memory and processes."""


class GeneratorWrapper:
    """What all generators share that sample by another one and only add to how it samples."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator

    def load_weights(self, tensors: Weights) -> None:
        """Replace the sampler's weights."""
        self.generator.load_weights(tensors)

    def sleep(self) -> None:
        """Free what the trainer can use."""
        self.generator.sleep()

    def close(self) -> None:
        """Free memory and processes."""
        self.generator.close()


@runtime_checkable
class LosingGenerator(Generator, Protocol):
    """A generator whose engines may be lost while others take over."""

    losses: list[str]
    """Which, and how, that nobody was told of yet."""


@runtime_checkable
class StreamingGenerator(LosingGenerator, Protocol):
    """A generator that takes requests while it samples, so that its slots never wait for the last
    completion of a batch."""

    num_slots: int
    """Completions that are sampled together, over all engines."""

    def stream(
        self, requests: Iterator[Request | None], sampling: SamplingParams
    ) -> Iterator[Sampled]:
        """Yield every request's completion once, as it finishes.

        Requests are asked for where this iterator is advanced, whenever there is room. Where none
        is given (None, or the end), they are asked for again after the next completion; with none
        under way it ends.
        """


@runtime_checkable
class ReceivingGenerator(Generator, Protocol):
    """A generator whose engine takes broadcast weights where they are computed with."""

    @property
    def num_receivers(self) -> int:
        """Processes of the engine."""

    def join(self, meeting: Meeting, first: int) -> None:
        """Have the engine's processes join a group, with the ranks from `first` on."""

    def receive(self) -> None:
        """Replace the engine's weights by those that are broadcast now."""


@runtime_checkable
class TellingGenerator(Generator, Protocol):
    """A generator that can tell tokens when they are sampled, before the completion is whole."""

    on_tokens: Callable[[int, Sequence[int]], None] | None
    """Called with a request's index and all its tokens so far, perhaps in another thread; an
    exception of it ends the sampling and comes out of `generate`."""


@runtime_checkable
class TextTellingGenerator(Generator, Protocol):
    """A generator that can tell a completion's text while it is sampled somewhere else."""

    on_text: Callable[[str], None] | None
    """Called where `generate` is advanced, of one request at a time: with the text that is new, and
    with none while it is waited for. An exception of it ends the sampling."""


class GeneratorBackend(GeneratorSettings):
    """The settings of one backend, and how it is opened with them."""

    def fitted(self, most_tokens: Callable[[], int]) -> GeneratorBackend:
        """Return settings with no more room than requests need.

        `most_tokens` says how many tokens no prompt exceeds with its completion; it may have to go
        through all prompts.
        """
        return self

    @abstractmethod
    def open_sealed(
        self, folder: Path, tokenizer: Tokenizer, run: SampleRun, precision: Precision
    ) -> Generator:
        """Return a generator for the model in a sealed folder."""

    @abstractmethod
    def open_beside(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        run: SampleRun,
        num_ranks: int,
        precision: Precision,
    ) -> Generator:
        """Return a generator for a policy that is being trained, loaded from a folder.

        In a stage of several ranks, all of them call this together.
        """
