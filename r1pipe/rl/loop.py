"""The GRPO loop: rollout, rewards, advantages, minibatch updates (arXiv:2402.03300, Algorithm 1).

Checkpoints are taken between rollouts, so that no rollout is ever stored: at most one checkpoint
interval is redone. Problems, seeds and minibatches are functions of the step, so a resumed run
continues the uninterrupted one exactly.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from r1pipe.generate.backends import generator_of
from r1pipe.generate.protocol import Generator, Sampling
from r1pipe.models.policy import freeze
from r1pipe.records import Group, Problem, Rollout
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
    minibatches,
    token_sequences,
    trained_rollouts,
    update_policy,
)
from r1pipe.stage import Context
from r1pipe.train.backends import make_engine
from r1pipe.train.batching import Batching, batching_of
from r1pipe.train.engine import Engine
from r1pipe.train.schedule import learning_rate

NUM_SAMPLE_ROWS = 4


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
    """Train `model` in place."""
    params = plan.params
    engine = make_engine(model, params.optimizer, plan.run)
    reference = Reference(freeze(copy.deepcopy(model))) if params.kl_coef else None
    generator = generator_of(model, tokenizer, plan.run)
    done = restore(context, engine, reference)
    rollouts_done = done // params.minibatches_per_rollout
    order = rollout_problems(problems, general, params)
    num_rollouts = params.num_steps // params.minibatches_per_rollout
    for number, chosen in enumerate(
        islice(order, rollouts_done, num_rollouts), start=rollouts_done
    ):
        started = time.perf_counter()
        groups = roll_out(generator, tokenizer, chosen, params, number, scorers)
        sampled_s = time.perf_counter() - started
        learn(context, engine, reference, groups, plan, tokenizer.pad_token_id, number, sampled_s)
        checkpoint(context, engine, reference, (number + 1) * params.minibatches_per_rollout)
    engine.close()


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
) -> list[Group]:
    """Sample, score, and give every rollout its advantage inside its group."""
    sampling = Sampling(params.temperature, 1.0, params.max_tokens)
    groups = sample_completions(
        generator,
        tokenizer,
        problems,
        params.group_size,
        sampling,
        params.format,
        [params.seed, number],
    )
    score_groups(groups, params.rewards, params.format, scorers)
    assign_advantages(groups, params.advantage_std)
    return groups


def learn(
    context: Context,
    engine: Engine,
    reference: Reference | None,
    groups: Sequence[Group],
    plan: GrpoPlan,
    pad_id: int,
    number: int,
    sampled_s: float,
) -> None:
    """Do one update per minibatch of a rollout and log each one."""
    params = plan.params
    batching = batching_of(plan.run, pad_id)
    everyone = [rollout for group in groups for rollout in group.rollouts]
    used = trained_rollouts(everyone, params.truncated)
    shown = rollout_metrics(groups)
    for place, batch in enumerate(
        minibatches(used, params.minibatches_per_rollout, f"{params.seed}:{number}")
    ):
        started = time.perf_counter()
        step = number * params.minibatches_per_rollout + place
        rows = reference_rows(reference, batch, params.temperature, batching)
        opt = params.optimizer
        rate = learning_rate(
            step, params.num_steps, opt.lr, opt.schedule, opt.warmup_steps, opt.final_lr_frac
        )
        update = update_policy(engine, batch, rows, plan.objective, batching, rate)
        if reference is not None and (step + 1) % params.reference_refresh_steps == 0:
            reference.refresh(engine.model)
        seconds = time.perf_counter() - started + sampled_s / params.minibatches_per_rollout
        speed = sum(len(s) for s in token_sequences(batch)) / seconds
        context.log(step + 1, params.num_steps, **shown, **update, lr=rate, tokens_per_s=speed)
    if number % 10 == 0:
        keep_samples(context, groups, number)


def reference_rows(
    reference: Reference | None, batch: Sequence[Rollout], temperature: float, batching: Batching
) -> list[list[float]] | None:
    """Return the reference's log-probabilities of a minibatch, or None without a reference."""
    if reference is None:
        return None
    return reference.logprobs(token_sequences(batch), temperature, batching)


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


def restore(context: Context, engine: Engine, reference: Reference | None) -> int:
    """Load the newest checkpoint of policy, optimizer and reference; return the updates done."""
    found = context.checkpoints.latest()
    if found is None:
        return 0
    step, folder = found
    engine.load(folder)
    if reference is not None:
        reference.load(folder)
    return step


def checkpoint(context: Context, engine: Engine, reference: Reference | None, step: int) -> None:
    """Save when it is due, then stop if that was asked for."""
    if context.checkpoint_due():
        with context.checkpoints.saving(step) as folder:
            engine.save(folder)
            if reference is not None:
                reference.save(folder)
    context.stop_if_asked()
