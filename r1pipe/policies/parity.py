"""The parity check: does the sampler compute what the trainer computes, before and after a push?

The ratio of GRPO divides the trainer's probability of a token by the sampler's. If the two come
from different engines, a wrong temperature, a stale cache or a weight that never arrived would
train on noise, in silence. So a stage compares them at its start on real prompts at the real
temperature: once with the weights as they are, and once after pushing changed ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from r1pipe.errors import StageError
from r1pipe.generate.gathering import gather_groups
from r1pipe.generate.protocol import SamplingParams
from r1pipe.models.adapters import is_adapted
from r1pipe.records import Problem, Rollout
from r1pipe.rl.grpo import Grpo
from r1pipe.rl.objective import MAX_LOG_RATIO
from r1pipe.rl.rollouts import sample_groups
from r1pipe.settings import Precision
from r1pipe.train.engine import Engine
from r1pipe.train.logprobs import completion_logprobs

NUM_PROBLEMS, MAX_TOKENS = 8, 64
FACTORS = (1.125, 2.0, 8.0)  # exact in every precision; the first that shows is enough
CLEARLY = 10.0  # a change shows when it moves log-probabilities by so many tolerances
TOLERANCES: dict[Precision, float] = {"float32": 1e-3, "bfloat16": 0.05}
"""Largest mean difference of log-probabilities by the stage's precision. Measured on a CPU:
1e-6 in float32, 2e-3 in bfloat16 with random weights; trained ones differ more."""


@dataclass(frozen=True)
class Mismatch:
    """How the trainer's log-probabilities of sampled tokens differ from the sampler's."""

    num_tokens: int
    mean: float
    """Mean absolute difference."""
    kl: float
    """k3 estimate of KL(sampler || trainer), per token."""
    ratio_max: float
    """Largest ratio of the two probabilities of a token, either way round."""

    def metrics(self) -> dict[str, float]:
        """Return what is logged."""
        return {"mismatch_kl": self.kl, "mismatch_ratio_max": self.ratio_max}

    def __str__(self) -> str:
        return (
            f"mean difference {self.mean:.2g}, KL {self.kl:.2g}, largest ratio {self.ratio_max:.3g}"
            f" over {self.num_tokens} tokens"
        )


def check_parity(grpo: Grpo, problems: Sequence[Problem], tolerance: float) -> dict[str, float]:
    """Compare sampler and trainer, push a changed weight, compare again, put everything back.

    Returns both mean differences. Raises StageError, with likely causes, if one is beyond
    the tolerance. Weights come back bit by bit.
    """
    engine, generator = grpo.trainer.engine, grpo.generator
    some = list(problems[:NUM_PROBLEMS])
    before, rollouts = _compare(grpo, some)
    if not before.mean <= tolerance:
        raise StageError(
            f"sampler and trainer disagree about the same weights: {before} (at most"
            f" {tolerance:g} on average). Both were told to compute in {grpo.params.precision}"
            " (params.precision); one of them may not, or this version of the engine may not fit"
            " the model; sample with run.generator.backend transformers to see the difference"
        )
    for factor in FACTORS:
        with changed(engine, factor):
            moved = mismatch(rollouts, _logprobs(grpo, rollouts))
            generator.load_weights(engine.weights())
            after, _ = _compare(grpo, some)
        generator.load_weights(engine.weights())
        if not after.mean <= tolerance:
            raise StageError(
                f"pushed weights do not arrive in the sampler as they are: before a push {before},"
                f" after pushing changed weights {after} (at most {tolerance:g} on average)."
                " Some weight or cache in it is stale; report it with the versions that"
                " `r1pipe doctor` prints"
            )
        if moved.mean > CLEARLY * tolerance:
            return {"parity": before.mean, "parity_after_push": after.mean}
    raise StageError(
        f"changing the weights moved no log-probability by more than {moved.mean:.2g}, so the push"
        " cannot be checked; is the policy untrained?"
    )


def _compare(grpo: Grpo, problems: Sequence[Problem]) -> tuple[Mismatch, list[Rollout]]:
    """Sample a completion of each problem, each rank its share; compare all on every rank."""
    params, ranks = grpo.params, grpo.context.ranks
    sampling = SamplingParams(params.temperature, params.top_p, min(params.max_tokens, MAX_TOKENS))
    groups = sample_groups(
        grpo.generator,
        grpo.tokenizer,
        problems,
        1,
        sampling,
        grpo.format,
        ["parity"],
        ranks=ranks,
    )
    rollouts = [g.rollouts[0] for g in gather_groups(ranks, problems, groups)]
    return mismatch(rollouts, _logprobs(grpo, rollouts)), rollouts


def _logprobs(grpo: Grpo, rollouts: Sequence[Rollout]) -> list[list[float]]:
    engine, temperature = grpo.trainer.engine, grpo.params.temperature
    return completion_logprobs(engine, rollouts, temperature, grpo.batching)


def mismatch(rollouts: Sequence[Rollout], trainer_rows: Sequence[Sequence[float]]) -> Mismatch:
    """Return how the trainer's log-probabilities differ from those the sampler gave.

    Raises StageError if the sampler gave none: a ratio would be meaningless.
    """
    differences: list[float] = []
    for rollout, row in zip(rollouts, trainer_rows, strict=True):
        sampler_row = rollout.streams["sampler_logprobs"]
        if len(sampler_row) != len(row):
            raise StageError(
                "the sampler gave no log-probabilities of its tokens; a policy cannot be trained on"
                " what it samples"
            )
        differences += [theirs - ours for theirs, ours in zip(row, sampler_row, strict=True)]
    count = len(differences)
    bounded = [min(d, MAX_LOG_RATIO) for d in differences]
    return Mismatch(
        count,
        mean=sum(map(abs, differences)) / count,
        kl=sum(math.expm1(d) - d for d in bounded) / count,
        ratio_max=math.exp(min(max(map(abs, differences)), MAX_LOG_RATIO)),
    )


@contextmanager
def changed(engine: Engine, factor: float) -> Iterator[None]:
    """Multiply embeddings, head, last norm, first and last layer by a factor inside the block.

    A tied head is changed with its embedding: a sampler that keeps a copy of either is found out.
    """
    parameters = changed_parameters(engine)
    kept: dict[str, torch.Tensor] = {}
    try:
        for name, parameter in parameters.items():
            with engine.writing(parameter):
                kept[name] = parameter.data.to("cpu", copy=True)
                parameter.data.mul_(factor)
        yield
    finally:
        for name, tensor in kept.items():
            with engine.writing(parameters[name]):
                parameters[name].data.copy_(tensor)


def changed_parameters(engine: Engine) -> dict[str, torch.Tensor]:
    """Return the parameters outside of the layers, and those of the first and the last one.

    With adapters, whose product begins at 0, the frozen ones too: all of them are pushed.
    """
    everyone = engine.parameters
    if is_adapted(engine.model):
        everyone = dict(engine.model.named_parameters())
    last = engine.model.config.num_hidden_layers - 1
    shown = [".layers.0.", f".layers.{last}."]
    return {
        name: parameter
        for name, parameter in everyone.items()
        if ".layers." not in name or any(place in name for place in shown)
    }
