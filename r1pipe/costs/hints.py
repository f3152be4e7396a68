"""What a plan says that would make a stage faster on a CPU: its settings leave the processor idle.

Only of models whose arithmetic takes most of the time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from r1pipe.costs.work import Cost, ModelInfo, SamplingWork, Training
from r1pipe.settings import Placement

LARGE_MODEL = 50_000_000
"""Parameters from which the arithmetic of a CPU takes most of the time."""
BFLOAT16_HINT = (
    "this processor multiplies in bfloat16, which trains a model of this size about three times as"
    " fast as float32; set params.precision: bfloat16"
)


def hints(cost: Cost, *, has_bfloat16: bool) -> Iterator[str]:
    """Yield what to set for what a stage does; `has_bfloat16`: the processor has units for it."""
    works = [(work.model, work.where) for work in cost.training]
    works += [(work.model, work.where) for work in cost.sampling]
    if has_bfloat16 and any(_is_slow(model, where) and not where.is_bf16 for model, where in works):
        yield BFLOAT16_HINT
    yield from filter(None, map(_idle_samplers, cost.sampling))
    yield from filter(None, map(_idle_trainers, cost.training))


def _is_slow(model: ModelInfo, where: Placement) -> bool:
    on_cpu = where.device.startswith("cpu") and not where.is_server
    return on_cpu and model.num_parameters >= LARGE_MODEL


def _idle_samplers(work: SamplingWork) -> str | None:
    """Say that a round has fewer batches than workers."""
    where, at_once = work.where, work.completions.high / max(1.0, work.rounds.high)
    batches = math.ceil(at_once / work.at_once)
    if not _is_slow(work.model, where) or not 0 < batches < where.threads or at_once < 2:
        return None
    wanted = math.ceil(at_once / min(where.threads, at_once))
    return (
        f"{at_once:.0f} completions at once are {_counted(batches, 'batch', 'batches')}, for"
        f" {where.threads} workers; set run.max_batch: {wanted}, and each has one"
    )


def _idle_trainers(work: Training) -> str | None:
    """Say that an update has fewer micro-batches than workers."""
    where, positions = work.where, work.tokens.high / max(1.0, work.updates.low)
    batches = math.ceil(positions / work.micro_batch_tokens)
    rows = positions / max(1.0, work.mean_tokens)
    if not _is_slow(work.model, where) or not 0 < batches < where.threads or rows < 2:
        return None
    wanted = math.ceil(max(work.mean_tokens, positions / where.threads))
    return (
        f"about {positions:.0f} positions a step are"
        f" {_counted(batches, 'micro-batch', 'micro-batches')}, for {where.threads} workers; set"
        f" run.micro_batch_tokens: {wanted}, and each has one"
    )


def _counted(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"
