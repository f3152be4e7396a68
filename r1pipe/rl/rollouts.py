"""Rollouts: which problems, their completions, rewards and advantages; each rank makes a share."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from r1pipe.chat import AnyFormat, render_completion
from r1pipe.generate.protocol import Generator, Request, Sampled, SamplingParams
from r1pipe.generate.uniforms import request_seed
from r1pipe.models.interfaces import Tokenizer
from r1pipe.models.prompts import after_opened, encode_completion, encode_prompt, opened_thought
from r1pipe.ranks import ALONE, Ranks
from r1pipe.records import FinishReason, Group, Problem, Rollout
from r1pipe.rewards.completion import Completion
from r1pipe.rewards.table import COMPLETION_REWARDS, rewards_of
from r1pipe.rl.estimators import ESTIMATORS, advantages_of_steps
from r1pipe.rl.losses import EPS, EPS_MODEL
from r1pipe.rl.params import Advantage, GrpoParams
from r1pipe.tasks.world import summarise
from r1pipe.verify import verify_many
from r1pipe.verify.reading.recast import recast

RewardFn = Callable[[Sequence[tuple[Problem, str]]], list[float]]
"""(problem, completion text) pairs -> rewards in [0, 1]: a reward model as a function."""


BY_MODEL = {"preference", "process"}
"""Rewards that a model gives."""


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
    revealed: Sequence[float] = (),
) -> list[Group]:
    """Sample `group_size` completions of every problem of this rank's share.

    Each request has its own seed, which does not depend on the number of ranks. `revealed` has, for
    every problem, the share of its solution that joins the prompt; the text has it before what the
    policy wrote.
    """
    seeds = ranks.share(_seeds(problems, group_size, seed_parts), group_size)
    shares = ranks.share(revealed) if revealed else ()
    problems = ranks.share(problems)
    given = [revealed_ids(tokenizer, *each, fmt) for each in zip(problems, shares, strict=False)]
    given = given or [()] * len(problems)
    prompts = [
        (*encode_prompt(tokenizer, problem.prompt, fmt), *ids)
        for problem, ids in zip(problems, given, strict=True)
    ]
    requests = [Request(prompts[i // group_size], seed, i) for i, seed in enumerate(seeds)]
    opened = opened_thought(tokenizer, fmt) if problems else ""
    sampled = {each.index: each for each in generator.generate(requests, sampling)}
    rollouts = [
        _rollout(each, sampled[each.index], given[each.index // group_size], tokenizer, opened)
        for each in requests
    ]
    return [
        Group(problem, rollouts[number * group_size : (number + 1) * group_size])
        for number, problem in enumerate(problems)
    ]


def _rollout(
    request: Request, sampled: Sampled, given: Sequence[int], tokenizer: Tokenizer, opened: str
) -> Rollout:
    """Return a completion as a rollout; its text has what was given before what was written."""
    has_end, ids = sampled.finish_reason is FinishReason.STOP, sampled.token_ids
    return Rollout(
        list(request.prompt_ids),
        ids,
        streams={"sampler_logprobs": sampled.logprobs},
        text=opened + tokenizer.decode([*given, *(ids[:-1] if has_end else ids)]),
        finish_reason=sampled.finish_reason,
        seed=request.seed,
    )


def revealed_ids(
    tokenizer: Tokenizer, problem: Problem, share: float, fmt: AnyFormat
) -> tuple[int, ...]:
    """Return the first floor(share x m) of the m tokens of a problem's written solution.

    The end of sequence is not one of them. A problem without a solution has none to show.
    """
    if problem.solution is None or not share:
        return ()
    summary = summarise(problem.gold, problem.language)
    text = render_completion(problem.solution, problem.gold, fmt, summary)
    ids = encode_completion(tokenizer, after_opened(text, opened_thought(tokenizer, fmt), fmt))[:-1]
    return tuple(ids[: math.floor(share * len(ids))])


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
    max_tokens: int | None = None,
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
            count = len(rollout.completion_ids)
            completion = Completion(texts[i], count, rollout.finish_reason, max_tokens)
            is_correct = verdicts[i] == "correct"
            named = rule_rewards(group.problem, completion, is_correct, weights, fmt)
            if preference is not None:
                named.pop("accuracy", None)
                named["preference"] = preference[i]
            rollout.rewards = named
            rollout.reward = sum(weights.get(name, 1.0) * value for name, value in named.items())


def rule_rewards(
    problem: Problem,
    completion: Completion,
    is_correct: bool,
    weights: Mapping[str, float],
    fmt: AnyFormat,
) -> dict[str, float]:
    """Return the rule rewards that `weights` names; what the verifier decides is known already."""
    table, found = rewards_of(fmt), dict[str, float]()
    decided = {"accuracy", *(["code"] if problem.checker == "code" else ())}
    for name in weights:
        if name in decided:
            found[name] = float(is_correct)
        elif name in COMPLETION_REWARDS:
            found[name] = COMPLETION_REWARDS[name](problem, completion)
        elif name != "preference":
            found[name] = table[name](problem, completion.text)
    return found


def subtract_kl(rollouts: Sequence[Rollout], rows: Sequence[Sequence[float]], coef: float) -> None:
    """Take the k1 estimate of KL(policy || reference) off every reward, by the reference's rows.

    k1 of a completion is the sum of log policy - log reference over its tokens, at the weights
    that sampled it (arXiv:2402.14740, section 2.1). It is among the rewards as `kl`, negative.
    """
    for rollout, row in zip(rollouts, rows, strict=True):
        rollout.rewards["kl"] = sum(row) - sum(rollout.streams["sampler_logprobs"])
        rollout.reward += coef * rollout.rewards["kl"]


def assign_kl_advantages(
    rollouts: Sequence[Rollout], rows: Sequence[Sequence[float]], coef: float
) -> None:
    """Give every token, as its advantage, log teacher - log policy at the weights that sampled it,
    by the teacher's rows; what rewards made of it is gone.

    In expectation that is the gradient of the reverse KL to the teacher, token by token, each on
    the prefix that the policy itself has written.
    """
    for rollout, row in zip(rollouts, rows, strict=True):
        own = rollout.streams["sampler_logprobs"]
        rollout.streams["advantage"] = [coef * (t - s) for t, s in zip(row, own, strict=True)]
        rollout.rewards["kl"] = sum(row) - sum(own)


def assign_advantages(groups: Sequence[Group], estimator: Advantage) -> None:
    """Give every token the advantage of its completion, in its group or in the batch.

    Before anything is split into minibatches or among ranks: groups and batch are whole here.
    """
    table = torch.tensor([[r.reward for r in g.rollouts] for g in groups], dtype=torch.float64)
    eps = torch.tensor([[eps_of(group)] for group in groups], dtype=torch.float64)
    advantages = ESTIMATORS[estimator](table, eps)
    for group, row in zip(groups, advantages.tolist(), strict=True):
        for rollout, advantage in zip(group.rollouts, row, strict=True):
            rollout.streams["advantage"] = [advantage] * len(rollout.completion_ids)


def assign_step_advantages(groups: Sequence[Group], estimator: Advantage) -> None:
    """Give every token the advantage that the steps of its group make.

    The rewards of all steps of all completions of a group are normalised together.
    """
    by_count: dict[int, list[Group]] = {}
    for group in groups:
        by_count.setdefault(sum(len(r.steps) for r in group.rollouts), []).append(group)
    for alike in by_count.values():
        rows = [[reward for r in g.rollouts for _, reward in r.steps] for g in alike]
        eps = torch.tensor([[eps_of(group)] for group in alike], dtype=torch.float64)
        table = ESTIMATORS[estimator](torch.tensor(rows, dtype=torch.float64), eps)
        for group, row in zip(alike, table.tolist(), strict=True):
            normalised = iter(row)
            for rollout in group.rollouts:
                steps = [(end, next(normalised)) for end, _ in rollout.steps]
                length = len(rollout.completion_ids)
                rollout.streams["advantage"] = advantages_of_steps(steps, length)


def eps_of(group: Group) -> float:
    """Return the epsilon of a group: a larger one if a model has scored it."""
    return EPS_MODEL if BY_MODEL & group.rollouts[0].rewards.keys() else EPS


# ---- metrics -------------------------------------------------------------------------------------


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
