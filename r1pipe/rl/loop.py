"""The GRPO loop: rollout, rewards, advantages, minibatch updates (arXiv:2402.03300, Algorithm 1).

Checkpoints are taken between rollouts, so that no rollout is ever stored: at most one checkpoint
interval is redone. Problems, seeds and minibatches are functions of the step, so a resumed run
continues the uninterrupted one exactly.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from r1pipe.generate.backends import generator_of
from r1pipe.generate.protocol import Generator, SamplingParams
from r1pipe.models.policy import freeze, load_model
from r1pipe.models.precision import cast_weights, dtype_of
from r1pipe.ranks import ALONE, Ranks
from r1pipe.records import Group, Problem, Rollout
from r1pipe.rl.exchange import gather_groups
from r1pipe.rl.parity import TOLERANCES, ParityPlan, check_parity
from r1pipe.rl.reference import Reference
from r1pipe.rl.rollouts import (
    Scorer,
    assign_advantages,
    problem_order,
    rollout_metrics,
    sample_completions,
    score_groups,
)
from r1pipe.rl.update import (
    Objective,
    differentiated_tokens,
    minibatches,
    policy_logprobs,
    token_sequences,
    trained_rollouts,
    update_policy,
)
from r1pipe.settings import Precision
from r1pipe.stage import Context
from r1pipe.train.backends import divides_weights, load_trained, make_engine
from r1pipe.train.batching import Batching, batching_of
from r1pipe.train.engine import Engine
from r1pipe.train.schedule import learning_rate
from r1pipe.train.supervised import finish

NUM_SAMPLE_ROWS = 4
PROGRESS = "progress.json"
"""In a checkpoint: what has to go on and is no weight."""
MISMATCH = ("mismatch_kl", "mismatch_ratio_max")
"""Metrics of what the sampler says of its tokens and the trainer with the same weights says."""


@dataclass(frozen=True)
class GrpoPlan:
    """What the loop needs to know; `params` and `run` are the fields of `stages/grpo.py`."""

    params: Any
    objective: Objective
    run: Any


def train_grpo(
    context: Context,
    model: Any,
    tokenizer: Any,
    problems: Sequence[Problem],
    plan: GrpoPlan,
    *,
    general: Sequence[Problem] = (),
    scorers: Mapping[str, Scorer] | None = None,
) -> None:
    """Train `model` in place and write it as the stage's output."""
    params = plan.params
    precision: Precision = params.precision
    reference = (
        make_reference(model, plan.run, context.ranks, precision) if params.kl_coef else None
    )
    sampled = sampled_model(model, plan.run, precision)
    engine = make_engine(model, params.optimizer, plan.run, context.ranks, precision)
    made = generator_of(sampled, tokenizer, plan.run, context.ranks.size, precision)
    with closing(made) as generator:
        done, trained_tokens = restore(context, engine, reference)
        generator.load_weights(engine.weights())
        pass_gate(context, engine, generator, tokenizer, problems, plan)
        first = done // params.minibatches_per_rollout
        order = rollout_problems(problems, general, params)
        num_rollouts = params.num_steps // params.minibatches_per_rollout
        for number, chosen in enumerate(islice(order, first, num_rollouts), start=first):
            started = time.perf_counter()
            groups = roll_out(generator, tokenizer, chosen, params, number, scorers, context.ranks)
            sampled_s = time.perf_counter() - started
            generator.sleep()
            trained_tokens += learn(
                context, engine, reference, groups, plan, tokenizer.pad_token_id, number, sampled_s
            )
            generator.load_weights(engine.weights())
            updates = (number + 1) * params.minibatches_per_rollout
            checkpoint(context, engine, reference, updates, trained_tokens)
    context.note(trained_tokens=trained_tokens)
    if reference is not None:
        reference.close()
    finish(context, engine, tokenizer)


def make_reference(model: Any, run: Any, ranks: Ranks, precision: Precision) -> Reference:
    """Return a frozen copy of the policy that lies as the policy will: whole, or in parts."""
    if not divides_weights(run):
        return Reference(frozen_copy(model, run, precision), ranks)
    from r1pipe.train.parts import FrozenParts

    own = freeze(load_trained(Path(model.name_or_path), run, precision))
    return Reference(own, ranks, FrozenParts(own, run.engine, ranks, precision))


def frozen_copy(model: Any, run: Any, precision: Precision) -> Any:
    """Return a copy that computes as the engine does: with weights of the precision beside
    DeepSpeed, which has such weights itself, else with the trained ones under autocast."""
    copied = freeze(copy.deepcopy(model))
    return cast_weights(copied, precision) if run.engine.backend == "deepspeed" else copied


def sampled_model(model: Any, run: Any, precision: Precision) -> Any:
    """Return what the sampler runs: the trained model itself, or one of its own where that lies in
    parts (ZeRO-3). vLLM looks at its configuration alone."""
    if run.generator.backend != "transformers" or not divides_weights(run):
        return model
    folder = Path(model.name_or_path)
    return freeze(load_model(folder, dtype=dtype_of(precision), device=run.device))


def pass_gate(
    context: Context,
    engine: Engine,
    generator: Generator,
    tokenizer: Any,
    problems: Sequence[Problem],
    plan: GrpoPlan,
) -> None:
    """Check a sampler with weights of its own against the trainer (`r1pipe.rl.parity`)."""
    if plan.run.generator.backend == "transformers":
        return
    params = plan.params
    parity = ParityPlan(
        params.temperature,
        params.max_tokens,
        params.format,
        plan.run.parity_tolerance or TOLERANCES[params.precision],
        batching_of(plan.run, tokenizer.pad_token_id),
        params.precision,
    )
    found = check_parity(engine, generator, tokenizer, problems, parity, context.ranks)
    context.note(**found)


def rollout_problems(
    problems: Sequence[Problem], general: Sequence[Problem], params: Any
) -> Iterator[list[Problem]]:
    """Yield the problems of each rollout; general prompts join from `preference.from_step` on."""
    per_rollout = params.problems_per_step * params.minibatches_per_rollout
    num_general = round(per_rollout * params.preference.general_frac) if params.preference else 0
    reasoning = problem_order(problems, per_rollout, params.seed)
    others = problem_order(general, num_general, params.seed + 1) if num_general else None
    number = 0
    while True:
        chosen = next(reasoning)
        step = number * params.minibatches_per_rollout
        if others is not None and step >= params.preference.from_step:
            chosen = chosen[: per_rollout - num_general] + next(others)
        yield chosen
        number += 1


def roll_out(
    generator: Generator,
    tokenizer: Any,
    problems: Sequence[Problem],
    params: Any,
    number: int,
    scorers: Mapping[str, Scorer] | None,
    ranks: Ranks = ALONE,
) -> list[Group]:
    """Sample, score, and give every rollout its advantage inside its group.

    Each rank does so for its share of the problems.
    """
    sampling = SamplingParams(params.temperature, 1.0, params.max_tokens)
    groups = sample_completions(
        generator,
        tokenizer,
        problems,
        params.group_size,
        sampling,
        params.format,
        [params.seed, number],
        ranks=ranks,
    )
    score_groups(groups, params.rewards, params.format, scorers)
    assign_advantages(groups, params.advantage_std)
    return gather_groups(ranks, problems, groups)


def learn(
    context: Context,
    engine: Engine,
    reference: Reference | None,
    groups: Sequence[Group],
    plan: GrpoPlan,
    pad_id: int,
    number: int,
    sampled_s: float,
) -> int:
    """Do one update per minibatch of a rollout, log each one; return the tokens trained on."""
    params = plan.params
    batching = batching_of(plan.run, pad_id)
    everyone = [rollout for group in groups for rollout in group.rollouts]
    used = trained_rollouts(everyone, params.truncated)
    shown = rollout_metrics(groups)
    old_rows = own_logprobs(engine, used, plan, batching)
    met: dict[str, float] = {}
    trained_tokens = 0
    for place, batch in enumerate(
        minibatches(used, params.minibatches_per_rollout, f"{params.seed}:{number}")
    ):
        started = time.perf_counter()
        step = number * params.minibatches_per_rollout + place
        rows = reference_rows(reference, batch, params, batching)
        rate = rate_of(params, step)
        old = None if old_rows is None else [old_rows[id(rollout)] for rollout in batch]
        update = update_policy(engine, batch, rows, plan.objective, batching, rate, old)
        trained_tokens += differentiated_tokens(batch, plan.objective.kl_coef)
        if old_rows is None:  # only at first are the trainer's weights those that sampled
            met = met or {name: update[name] for name in MISMATCH if name in update}
        if reference is not None and (step + 1) % params.reference_refresh_steps == 0:
            reference.refresh(engine.weights())
        seconds = time.perf_counter() - started + sampled_s / params.minibatches_per_rollout
        speed = sum(len(s) for s in token_sequences(batch)) / seconds
        context.log(
            step + 1, params.num_steps, **shown, **(update | met), lr=rate, tokens_per_s=speed
        )
    if number % 10 == 0:
        keep_samples(context, groups, number)
    return trained_tokens


def rate_of(params: Any, step: int) -> float:
    """Return the learning rate of an update."""
    opt, count = params.optimizer, params.num_steps
    return learning_rate(step, count, opt.lr, opt.schedule, opt.warmup_steps, opt.final_lr_frac)


def own_logprobs(
    engine: Engine, rollouts: Sequence[Rollout], plan: GrpoPlan, batching: Batching
) -> dict[int, list[float]] | None:
    """Return the trainer's log-probabilities of each rollout (by `id`) under the weights that
    sampled it, where they are asked for and the update does not compute them itself: the only
    one of a rollout does."""
    is_only_update = plan.params.minibatches_per_rollout == 1
    if plan.objective.truncation is None or is_only_update or not rollouts:
        return None
    sequences = token_sequences(rollouts)
    rows = policy_logprobs(engine, sequences, plan.params.temperature, batching)
    return {id(rollout): row for rollout, row in zip(rollouts, rows, strict=True)}


def reference_rows(
    reference: Reference | None,
    batch: Sequence[Rollout],
    params: Any,
    batching: Batching,
) -> list[list[float]] | None:
    """Return the reference's log-probabilities of a minibatch, or None without a reference."""
    if reference is None:
        return None
    sequences = token_sequences(batch)
    return reference.logprobs(sequences, params.temperature, batching, params.precision)


def keep_samples(context: Context, groups: Sequence[Group], number: int) -> None:
    """Keep a few completions for `r1pipe show`."""
    for group in groups[:NUM_SAMPLE_ROWS]:
        rollout = group.rollouts[0]
        context.sample(
            rollout=number,
            prompt=group.problem.prompt,
            gold=group.problem.gold,
            completion=rollout.completion.text,
            reward=rollout.reward,
            advantage=rollout.advantage,
        )


def restore(context: Context, engine: Engine, reference: Reference | None) -> tuple[int, int]:
    """Load the newest checkpoint of policy, optimizer and reference.

    Returns the updates done and the tokens they were trained on.
    """
    found = context.checkpoints.latest()
    if found is None:
        return 0, 0
    step, folder = found
    engine.load(folder)
    if reference is not None:
        reference.load(folder)
    return step, int(json.loads((folder / PROGRESS).read_text())["trained_tokens"])


def checkpoint(
    context: Context,
    engine: Engine,
    reference: Reference | None,
    step: int,
    trained_tokens: int,
) -> None:
    """Save when it is due, then stop if that was asked for."""
    if context.checkpoint_due():
        with context.checkpoints.saving(step) as folder:
            engine.save(folder)
            if reference is not None:
                reference.save(folder)
            if context.ranks.is_main:
                (folder / PROGRESS).write_text(json.dumps({"trained_tokens": trained_tokens}))
    context.stop_if_asked()
