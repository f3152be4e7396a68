"""Rollouts: completions of problems and their rewards; each rank makes a share."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

from r1pipe.chat import AnyFormat
from r1pipe.curricula.revealed import revealed_ids
from r1pipe.generate.group_requests import seeds_of
from r1pipe.generate.protocol import Generator, Request, Sampled, SamplingParams
from r1pipe.models.interfaces import Tokenizer
from r1pipe.models.prompts import encode_prompt, opened_thought
from r1pipe.ranks import ALONE, Ranks
from r1pipe.records import Group, Problem, Rollout
from r1pipe.rewards.completion import Completion
from r1pipe.rewards.model import RewardFn
from r1pipe.rewards.rules import rule_rewards
from r1pipe.verify import verify_many
from r1pipe.verify.reading.recast import recast


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
    seeds = ranks.share(seeds_of(problems, group_size, seed_parts), group_size)
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
    return Rollout(
        request.prompt_ids,
        array("i", sampled.token_ids),
        streams={"sampler_logprobs": array("d", sampled.logprobs)},
        text=opened + tokenizer.decode([*given, *sampled.written_ids]),
        finish_reason=sampled.finish_reason,
        seed=request.seed,
        trained=sampled.is_sampled,
    )


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
