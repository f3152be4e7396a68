"""Costs of preferences and labels: pairs, DPO, reward models, labels of steps."""

from __future__ import annotations

import math
from dataclasses import replace

from r1pipe.costs import fields
from r1pipe.costs.recipes import (
    batch_limit,
    expectation,
    expected_length,
    sampling_place,
    training_place,
)
from r1pipe.costs.work import Cost, InfoMap, ModelInfo, Range, RowsInfo, SamplingWork, Training

PAIRED_FRAC = 0.02
"""Least share of the candidates that become preferences: few problems have both sides."""
STEPS = Range(0.5, 20)
"""Steps of a completion that are continued: those that another one shares count once."""


def paired_rows(candidates: RowsInfo, max_per_problem: int, are_pairs: bool) -> RowsInfo:
    """Return preferences made of candidates; how many problems have both sides is not known."""
    texts = 2 if are_pairs else 1
    most = candidates.num_rows * (max_per_problem / texts if are_pairs else 1.0)
    count = Range(PAIRED_FRAC * most.low, most.high)
    return replace(
        candidates, num_rows=count, completion_tokens=candidates.completion_tokens * texts
    )


def preference_training(
    params: fields.Passes,
    run: fields.TrainsTexts,
    model: ModelInfo,
    rows: RowsInfo,
    texts_per_row: int,
) -> Cost:
    """Return the cost of a reward model; a row holds so many texts, each with the prompt."""
    examples = rows.num_rows * params.num_epochs
    per_row = rows.prompt_tokens * (texts_per_row - 1) + rows.tokens
    mean = per_row.high / texts_per_row
    updates = examples * (1 / params.batch_size)
    work = Training(
        model=model,
        where=training_place(params, run),
        tokens=examples * per_row,
        updates=Range(math.ceil(updates.low), math.ceil(updates.high)),
        mean_tokens=mean,
        longest=math.ceil(4 * mean),
        micro_batch_tokens=min(
            run.micro_batch_tokens, math.ceil(run.examples_per_micro_batch * texts_per_row * mean)
        ),
    )
    return Cost({"model": model}, training=(work,))


def pair_training(
    params: fields.PairPasses, run: fields.TrainsRows, model: ModelInfo, rows: RowsInfo
) -> Cost:
    """Return the cost of DPO: passes over both texts of every pair, one of them without
    gradients."""
    pairs = rows.num_rows
    per_pair = rows.prompt_tokens + rows.tokens
    mean = (per_pair * 0.5).at_most(params.max_tokens)
    work = Training(
        model=model,
        where=training_place(params, run),
        tokens=pairs * params.num_epochs * mean * 2.0,
        updates=Range(
            math.ceil(pairs.low / params.batch_size) * params.num_epochs,
            math.ceil(pairs.high / params.batch_size) * params.num_epochs,
        ),
        mean_tokens=mean.high,
        longest=params.max_tokens
        if mean.high * 4 > params.max_tokens
        else math.ceil(mean.high * 4),
        micro_batch_tokens=run.micro_batch_tokens,
        scored_tokens=pairs * mean * 2.0,
    )
    return Cost({"model": model}, training=(work,))


def continuations(params: fields.Continuations, run: fields.Samples, inputs: InfoMap) -> Cost:
    """Return the cost of labels of steps, from the fields of `stages/process_labels.py`."""
    model, candidates = inputs["model"], inputs["candidates"]
    count = candidates.num_rows
    prefixes = count * STEPS
    sampled = prefixes * params.num_continuations
    rest = candidates.completion_tokens * Range(0.2, 1.0)
    length = expected_length(rest, params.max_tokens, run.expect)
    unit = params.candidates_per_unit * params.num_continuations
    work = SamplingWork(
        model=model,
        where=sampling_place(params, run),
        completions=sampled,
        prompts=prefixes,
        prompt_tokens=candidates.prompt_tokens + candidates.completion_tokens * Range(0.2, 0.8),
        completion_tokens=length,
        longest=params.max_tokens,
        at_once=min(unit, batch_limit(run)),
        rounds=Range(
            math.ceil(count.low / params.candidates_per_unit),
            math.ceil(count.high / params.candidates_per_unit),
        ),
    )
    rows = replace(candidates, num_rows=Range(0.3, 1.0) * count)
    text = f"{STEPS.low:g} to {STEPS.high:g} different steps of a completion to go on from"
    return Cost(
        {"rows": rows},
        sampling=(work,),
        other_s=sampled * Range(5e-5, 3e-3),
        assumes=(text, *expectation(run.expect, "continuations")),
    )
