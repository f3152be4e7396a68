"""Rollouts: groups of completions sampled from the policy, scored, with their advantages."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from r1pipe import rewards
from r1pipe.chat import Format
from r1pipe.generate.protocol import Generator, Request, SamplingParams
from r1pipe.generate.uniforms import request_seed
from r1pipe.models.prompts import encode_prompt
from r1pipe.ranks import ALONE, Ranks
from r1pipe.records import Completion, FinishReason, Group, Problem, Rollout
from r1pipe.rl.advantages import Scale, group_advantages
from r1pipe.verify import verify_many

Scorer = Callable[[Sequence[tuple[Problem, str]]], list[float]]
"""(problem, completion text) pairs -> rewards in [0, 1]; a reward model behind it."""


def problem_order(
    problems: Sequence[Problem], per_rollout: int, seed: int
) -> Iterator[list[Problem]]:
    """Yield the problems of each rollout for ever: epochs in seeded order, none twice in one.

    Where the list is shorter than a rollout asks for, epochs follow one another inside it.
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


def sample_completions(
    generator: Generator,
    tokenizer: Any,
    problems: Sequence[Problem],
    num_samples: int,
    sampling: SamplingParams,
    fmt: Format,
    seed_parts: Sequence[int | str],
    first_sample: int = 0,
    ranks: Ranks = ALONE,
) -> list[Group]:
    """Sample `num_samples` completions of every problem (of this rank's share of them).

    Each request has its own seed, which does not depend on the number of ranks.
    """
    seeds = ranks.share(_seeds(problems, num_samples, seed_parts, first_sample), num_samples)
    problems = ranks.share(problems)
    prompts = [tuple(encode_prompt(tokenizer, problem.prompt, fmt)) for problem in problems]
    requests = [
        Request(prompts[index // num_samples], seed, index) for index, seed in enumerate(seeds)
    ]
    empty: Any = None
    groups = [
        Group(problem, [Rollout(empty, list(prompt)) for _ in range(num_samples)])
        for problem, prompt in zip(problems, prompts, strict=True)
    ]
    for sampled in generator.generate(requests, sampling):
        number, place = divmod(sampled.index, num_samples)
        ids = sampled.token_ids
        has_end = sampled.finish_reason is FinishReason.STOP
        groups[number].rollouts[place].completion = Completion(
            problem_id=problems[number].id,
            sample_index=first_sample + place,
            seed=seeds[sampled.index],
            token_ids=ids,
            text=tokenizer.decode(ids[:-1] if has_end else ids),
            finish_reason=sampled.finish_reason,
            sampler_logprobs=sampled.logprobs,
        )
    return groups


def _seeds(
    problems: Sequence[Problem], num_samples: int, parts: Sequence[int | str], first_sample: int
) -> list[int]:
    """Return the seeds of all samples, problem by problem.

    A problem that comes twice (a rollout that spans two epochs) is sampled anew.
    """
    times = Counter[tuple[str, str]]()
    seeds = []
    for problem in problems:
        first = first_sample + times[problem.id, problem.prompt] * num_samples
        times[problem.id, problem.prompt] += 1
        seeds += [
            request_seed(*parts, problem.id, problem.prompt, first + place)
            for place in range(num_samples)
        ]
    return seeds


def score_groups(
    groups: Sequence[Group],
    weights: Mapping[str, float],
    fmt: Format,
    scorers: Mapping[str, Scorer] | None = None,
) -> None:
    """Give every rollout its rewards by name and their weighted sum.

    A problem whose task has a scorer takes that model's reward (named `preference`) in place of
    the accuracy reward: the checker of a general prompt is for evaluation, never for training.
    """
    scorers = scorers or {}
    for group in groups:
        scorer = scorers.get(group.problem.task)
        texts = [rollout.completion.text for rollout in group.rollouts]
        preference = scorer([(group.problem, text) for text in texts]) if scorer else None
        verdicts = verify_many((group.problem, text) for text in texts)
        for i, rollout in enumerate(group.rollouts):
            rollout.verdict = verdicts[i]
            named = rule_rewards(group.problem, texts[i], verdicts[i] == "correct", weights, fmt)
            if preference is not None:
                named.pop("accuracy", None)
                named["preference"] = preference[i]
            rollout.rewards = named
            rollout.reward = sum(weights.get(name, 1.0) * value for name, value in named.items())


def rule_rewards(
    problem: Problem, text: str, is_correct: bool, weights: Mapping[str, float], fmt: Format
) -> dict[str, float]:
    """Return the rule rewards that `weights` names; `format` is that of the prompt's format."""
    named = {}
    for name in weights:
        if name == "accuracy":
            named[name] = float(is_correct)
        elif name == "format":
            table_name = "format_zero" if fmt == "r1-zero" else "format_chat"
            named[name] = rewards.REWARDS[table_name](problem, text)
        elif name != "preference":
            named[name] = rewards.REWARDS[name](problem, text)
    return named


def assign_advantages(groups: Sequence[Group], scale: Scale) -> None:
    """Compute advantages inside each group, before anything is split into minibatches."""
    table = torch.tensor([[r.reward for r in g.rollouts] for g in groups], dtype=torch.float64)
    for group, row in zip(groups, group_advantages(table, scale).tolist(), strict=True):
        for rollout, advantage in zip(group.rollouts, row, strict=True):
            rollout.advantage = advantage


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
    flat = sum(all(r.advantage == 0 for r in group.rollouts) for group in groups)
    return metrics | {
        "reward": sum(r.reward for r in rollouts) / count,
        "pass_rate": sum(r.verdict == "correct" for r in rollouts) / count,
        "completion_tokens": sum(len(r.completion.token_ids) for r in rollouts) / count,
        "truncated_frac": sum(r.completion.finish_reason == "length" for r in rollouts) / count,
        "flat_group_frac": flat / len(groups),
    }
