"""Batches of rollouts, sampled while the policy trains on earlier ones: `params.staleness`, k.

Batch n is sampled with the weights that max(0, n - k) batches have trained. It is begun before
the training on batch n - k, so with k = 1:

    sampling    0    1    2    3    ...
    training         0    1    2    ...
    weights     0    0    1    2    ... of the sampler: so many batches have trained them

The order decides what is sampled with which weights, never the clock: whoever is faster waits. All
batches are made by one thread, one after the other, so that a curriculum sees them as it would in
turn. A checkpoint has the weights of the batches that were begun; they are sampled again from it.

In a trainer of several processes rank 0 makes the batches, whole, in its thread. It sends each one
to the others where it is wanted, between updates: no message of a thread meets those of training.

The drift between sampler and policy is corrected by truncated importance sampling
(`truncated_weights` in `rl/objective.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from time import perf_counter

from safetensors.torch import load_file
from torch import Tensor

from r1pipe.curricula.curricula import Curriculum
from r1pipe.generate.driven import Driven, by_rank_0
from r1pipe.generate.protocol import (
    Generator,
    GeneratorWrapper,
    Request,
    Sampled,
    SamplingParams,
    Weights,
)
from r1pipe.policies.broadcast import TimedBatch, broadcast
from r1pipe.ranks import ALONE, Ranks
from r1pipe.records import RolloutBatch
from r1pipe.rl.grpo import Grpo
from r1pipe.stage import Context
from r1pipe.train.loop import Trainer
from r1pipe.train.state import StateWriter

NAME = "sampler"
"""In a checkpoint: `sampler-<number of the batch>*.safetensors`."""
DIGITS = 10
LOOK_EVERY_S = 0.5
"""For a stop that one of several processes does not hear, while a batch is waited for."""
MAX_SHOWN = 100
"""Batches whose times are kept for `r1pipe show`."""


class SamplerWeights:
    """The weights of batches that are begun and not yet trained on, in this process's memory."""

    def __init__(self, is_kept: bool = True) -> None:
        """`is_kept` is false on ranks that only help to gather them."""
        self.is_kept = is_kept
        self.of: dict[int, dict[str, Tensor]] = {}
        """By the number of the batch; none of them where they are not kept."""

    def keep(self, number: int, weights: Weights) -> None:
        """Keep a copy for a batch, if a checkpoint has not given it."""
        if number in self.of:
            return
        self.of[number] = {}
        for name, tensor in weights:
            if self.is_kept:
                self.of[number][name] = tensor.detach().to("cpu", copy=True)

    def save(self, folder: Path) -> None:
        """Write them into a checkpoint folder."""
        for number, weights in self.of.items() if self.is_kept else ():
            writer = StateWriter(folder, f"{NAME}-{number:0{DIGITS}d}")
            for name, tensor in weights.items():
                writer.add(name, tensor)
            writer.flush()

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        self.of = {}
        for path in sorted(folder.glob(f"{NAME}-*.safetensors")):
            number = int(path.name[len(NAME) + 1 :][:DIGITS])
            self.of.setdefault(number, {}).update(load_file(path) if self.is_kept else {})


class AheadOfTraining:
    """Has a thread of rank 0 sample batches while the policy trains on earlier ones."""

    def __init__(self, staleness: int, weights: SamplerWeights) -> None:
        self._staleness = staleness
        self._weights = weights
        self._is_over = False
        """Nobody wants completions any more."""

    @contextmanager
    def batches(
        self, grpo: Grpo, curriculum: Curriculum, numbers: range
    ) -> Iterator[Iterator[RolloutBatch]]:
        """Give batches, the next `staleness` of which are begun already."""

        def make(number: int) -> RolloutBatch:
            return grpo.roll_out_enough(curriculum.next(number), number, curriculum)

        sampling = Ahead(grpo.context, grpo.trainer, grpo.generator, self._weights, make)
        self._is_over = False
        try:
            sampling.begin(numbers[: self._staleness])
            following = (numbers[place : place + 1] for place in count(self._staleness))
            yield map(sampling.take, numbers, following)
        finally:
            self._is_over = True
            sampling.close()

    def ranks(self, context: Context) -> Ranks:
        """Return rank 0 as the only one: it makes batches whole."""
        return ALONE

    def follow(self, generator: Generator, context: Context) -> Generator:
        """Return a generator that ends with the run; it shows nothing and hears no signal, which
        are the training's."""
        return _Leaving(engines_of(generator), lambda: self._is_over)


class Ahead:
    """Makes the batches of a run, `staleness` of them ahead of the one that is trained on."""

    def __init__(
        self,
        context: Context,
        trainer: Trainer,
        generator: Generator,
        weights: SamplerWeights,
        make: Callable[[int], RolloutBatch],
    ) -> None:
        """`make` samples and rewards a batch with the weights that `generator` has, on rank 0."""
        self._context = context
        self._trainer = trainer
        self._generator = generator
        self._weights = weights
        self._make = make
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sampler")
        self._begun: dict[int, Future[TimedBatch]] = {}
        """On rank 0."""
        self._epoch = perf_counter()
        self._times: list[list[float]] = []
        """Of each batch: its number, when its sampling began and ended, likewise its training."""

    def begin(self, numbers: Sequence[int]) -> None:
        """Have batches sampled with the weights that a checkpoint gave, or else the present
        ones."""
        for number in numbers:
            self._weights.keep(number, self._trainer.engine.weights())
            if self._context.ranks.is_main:
                self._begun[number] = self._thread.submit(self._sampled, number)

    def take(self, number: int, following: Sequence[int]) -> RolloutBatch:
        """Return a batch that was begun, and begin those that follow with the present weights.

        Waits for it; what training has done is saved if that is interrupted.
        """
        called = self._now()
        self._end_training(called)
        with self._trainer.saved_if_stopped():
            batch, began, ended = self._wanted(number)
        del self._weights.of[number]
        self.begin(following)
        started = self._now()
        batch.seconds = started - called
        batch.metrics = {
            **batch.metrics,
            "sampling_s": ended - began,
            "waited_s": batch.seconds,
        }
        self._times.append([number, began, ended, started, started])
        return batch

    def _wanted(self, number: int) -> TimedBatch:
        """Wait for a batch, on all ranks; raise Interrupted on all if a stop was asked for."""
        ranks = self._context.ranks

        def awaited() -> TimedBatch:
            while True:
                with self._context.interruptible():
                    wait([self._begun[number]], LOOK_EVERY_S if ranks.size > 1 else None)
                if self._begun[number].done():
                    return self._begun[number].result()

        made = awaited() if ranks.size == 1 else by_rank_0(ranks, awaited)
        self._begun.pop(number, None)
        return broadcast(ranks, made)

    def close(self) -> None:
        """Give up what is being sampled, and keep the times for `r1pipe show`."""
        self._end_training(self._now())
        if self._begun:
            self._generator.close()
        self._thread.shutdown(cancel_futures=True)
        names = "rollout", "sampled_from", "sampled_to", "trained_from", "trained_to"
        rows = [[round(each, 3) for each in row] for row in self._times[-MAX_SHOWN:]]
        self._context.note(timeline=[dict(zip(names, row, strict=True)) for row in rows])

    def _sampled(self, number: int) -> TimedBatch:
        began = self._now()
        weights = iter(self._weights.of[number].items())  # all of them: nobody else need help
        engines_of(self._generator).load_weights(weights)
        return TimedBatch(self._make(number), began, self._now())

    def _end_training(self, now: float) -> None:
        if self._times:
            self._times[-1][-1] = now

    def _now(self) -> float:
        return perf_counter() - self._epoch


def engines_of(generator: Generator) -> Generator:
    """Return what rank 0 samples with while other ranks do something else."""
    engines = generator.engines if isinstance(generator, Driven) else generator
    assert engines is not None, "only rank 0 samples ahead"
    return engines


class _Leaving(GeneratorWrapper):
    """A generator that is left when nobody wants its completions any more."""

    def __init__(self, generator: Generator, is_unwanted: Callable[[], bool]) -> None:
        super().__init__(generator)
        self.is_unwanted = is_unwanted

    def generate(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Sampled]:
        """Yield completions as long as somebody wants them."""
        for sampled in self.generator.generate(requests, sampling):
            if self.is_unwanted():
                raise _UnwantedError
            yield sampled


class _UnwantedError(Exception):
    """Nobody wants the completions of a batch any more."""
