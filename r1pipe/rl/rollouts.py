"""Rollouts: which problems, their completions, rewards and advantages; each rank makes a share."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain

import torch

from r1pipe.chat import AnyFormat
from r1pipe.generate.protocol import Generator, Request, SamplingParams
from r1pipe.generate.uniforms import request_seed
from r1pipe.keys import JsonObject
from r1pipe.models.interfaces import Tokenizer
from r1pipe.models.prompts import encode_prompt, opened_thought
from r1pipe.ranks import ALONE, Ranks
from r1pipe.records import FinishReason, Group, Problem, Rollout, Verdict
from r1pipe.rewards.table import rewards_of
from r1pipe.rl.losses import EPS, EPS_MODEL, group_advantages
from r1pipe.rl.params import AdvantageStd, GrpoParams
from r1pipe.verify import verify_many
from r1pipe.verify.answers.recast import recast

RewardFn = Callable[[Sequence[tuple[Problem, str]]], list[float]]
"""(problem, completion text) pairs -> rewards in [0, 1]: a reward model as a function."""


# ---- problems ------------------------------------------------------------------------------------


def problems_of_rollouts(
    problems: Sequence[Problem], general: Sequence[Problem], params: GrpoParams
) -> Iterator[list[Problem]]:
    """Yield the problems of each rollout; general prompts join from `preference.from_step` on."""
    per_rollout = params.problems_per_step * params.minibatches_per_rollout
    preference = params.preference
    num_general = params.num_general
    reasoning = problem_order(problems, per_rollout, params.seed)
    others = problem_order(general, num_general, params.seed + 1) if num_general else None
    for number, chosen in enumerate(reasoning):
        step = number * params.minibatches_per_rollout
        if preference and others and step >= preference.from_step:
            yield chosen[: per_rollout - num_general] + next(others)
        else:
            yield chosen


def problem_order(
    problems: Sequence[Problem], per_rollout: int, seed: int
) -> Iterator[list[Problem]]:
    """Yield the problems of each rollout for ever: epochs in seeded order, none twice in one.

    A list that is shorter than a rollout asks for comes in several epochs inside it.
    """
    epoch, queue = 0, list[Problem]()
    while True:
        while len(queue) < per_rollout:
            order = list(problems)
            random.Random(f"{seed}:problems:{epoch}").shuffle(order)
            queue.extend(order)
            epoch += 1
        yield queue[:per_rollout]
        queue = queue[per_rollout:]


# ---- completions ---------------------------------------------------------------------------------


def sample_groups(  # noqa: PLR0913 - what a sample depends on
    generator: Generator,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    group_size: int,
    sampling: SamplingParams,
    fmt: AnyFormat,
    seed_parts: Sequence[int | str],
    ranks: Ranks = ALONE,
) -> list[Group]:
    """Sample `group_size` completions of every problem of this rank's share.

    Each request has its own seed, which does not depend on the number of ranks.
    """
    seeds = ranks.share(_seeds(problems, group_size, seed_parts), group_size)
    problems = ranks.share(problems)
    prompts = [tuple(encode_prompt(tokenizer, problem.prompt, fmt)) for problem in problems]
    requests = [Request(prompts[i // group_size], seed, i) for i, seed in enumerate(seeds)]
    opened = opened_thought(tokenizer, fmt) if problems else ""
    sampled = {each.index: each for each in generator.generate(requests, sampling)}

    def rollout(request: Request) -> Rollout:
        completion = sampled[request.index]
        has_end, ids = completion.finish_reason is FinishReason.STOP, completion.token_ids
        return Rollout(
            list(request.prompt_ids),
            ids,
            streams={"sampler_logprobs": completion.logprobs},
            text=opened + tokenizer.decode(ids[:-1] if has_end else ids),
            finish_reason=completion.finish_reason,
            seed=request.seed,
        )

    rollouts = [rollout(request) for request in requests]
    return [
        Group(problem, rollouts[number * group_size : (number + 1) * group_size])
        for number, problem in enumerate(problems)
    ]


def _seeds(problems: Sequence[Problem], group_size: int, parts: Sequence[int | str]) -> list[int]:
    """Return the seeds of all completions, problem by problem.

    A problem that comes twice (a rollout that spans two epochs) gets other ones.
    """
    times = Counter[tuple[str, str]]()
    seeds = []
    for problem in problems:
        first = times[problem.id, problem.prompt] * group_size
        times[problem.id, problem.prompt] += 1
        seeds += [
            request_seed(*parts, problem.id, problem.prompt, first + place)
            for place in range(group_size)
        ]
    return seeds


# ---- rewards and advantages ----------------------------------------------------------------------


def score_groups(
    groups: Sequence[Group],
    weights: Mapping[str, float],
    fmt: AnyFormat,
    reward_models: Mapping[str, RewardFn] | None = None,
) -> None:
    """Give every rollout its rewards by name and their weighted sum.

    A problem whose task has a reward model takes its reward (named `preference`) in place of the
    accuracy reward: the checker of a general prompt is for evaluation, never for training.
    """
    reward_models = reward_models or {}
    for group in groups:
        reward_model = reward_models.get(group.problem.task)
        texts = [rollout.text for rollout in group.rollouts]
        pairs = [(group.problem, recast(text, fmt)) for text in texts]
        preference = reward_model(pairs) if reward_model else None
        verdicts = verify_many(pairs)
        for i, rollout in enumerate(group.rollouts):
            rollout.verdict = verdicts[i]
            named = rule_rewards(group.problem, texts[i], verdicts[i] == "correct", weights, fmt)
            if preference is not None:
                named.pop("accuracy", None)
                named["preference"] = preference[i]
            rollout.rewards = named
            rollout.reward = sum(weights.get(name, 1.0) * value for name, value in named.items())


def rule_rewards(
    problem: Problem, text: str, is_correct: bool, weights: Mapping[str, float], fmt: AnyFormat
) -> dict[str, float]:
    """Return the rule rewards that `weights` names; what the verifier decides is known already."""
    table = rewards_of(fmt)
    decided = {"accuracy", *(["code"] if problem.checker == "code" else ())}
    return {
        name: float(is_correct) if name in decided else table[name](problem, text)
        for name in weights
        if name != "preference"
    }


def assign_advantages(groups: Sequence[Group], std: AdvantageStd) -> None:
    """Give every token the advantage of its completion inside its group.

    Before anything is split into minibatches: the group is whole here.
    """
    table = torch.tensor([[r.reward for r in g.rollouts] for g in groups], dtype=torch.float64)
    eps = [[EPS_MODEL if "preference" in g.rollouts[0].rewards else EPS] for g in groups]
    advantages = group_advantages(table, std, torch.tensor(eps, dtype=torch.float64))
    for group, row in zip(groups, advantages.tolist(), strict=True):
        for rollout, advantage in zip(group.rollouts, row, strict=True):
            rollout.streams["advantage"] = [advantage] * len(rollout.completion_ids)


# ---- all ranks -----------------------------------------------------------------------------------


def gather_groups(ranks: Ranks, problems: Sequence[Problem], mine: list[Group]) -> list[Group]:
    """Return the groups of all problems, given those of this rank's share: all train on all."""
    if ranks.size == 1:
        return mine
    rows = ranks.gather([[asdict(rollout) for rollout in group.rollouts] for group in mine])
    return [
        Group(problem, [_rollout_of(row) for row in rollouts])
        for problem, rollouts in zip(problems, chain.from_iterable(rows), strict=True)
    ]


def _rollout_of(row: JsonObject) -> Rollout:
    """Return the rollout of a row that `asdict` made and JSON carried."""
    verdict = None if row["verdict"] is None else Verdict(row["verdict"])
    reason = FinishReason(row["finish_reason"])
    return Rollout(**{**row, "finish_reason": reason, "verdict": verdict})


def rollout_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Return what is logged of one rollout: rewards, pass rate, length, truncation, flat groups."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    count = len(rollouts)
    names = sorted({name for rollout in rollouts for name in rollout.rewards})
    metrics = {
        f"reward_{name}": sum(r.rewards[name] for r in having) / len(having)
        for name in names
        if (having := [r for r in rollouts if name in r.rewards])
    }
    flat = sum(not any(any(r.streams["advantage"]) for r in g.rollouts) for g in groups)
    return metrics | {
        "reward": sum(r.reward for r in rollouts) / count,
        "pass_rate": sum(r.verdict == "correct" for r in rollouts) / count,
        "completion_tokens": sum(len(r.completion_ids) for r in rollouts) / count,
        "truncated_frac": sum(r.finish_reason == "length" for r in rollouts) / count,
        "flat_group_frac": flat / len(groups),
    }
