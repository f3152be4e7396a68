"""Costs of the methods that train on what the policy samples: GRPO, distillation, PPO."""

from __future__ import annotations

import math
from dataclasses import replace

from r1pipe.costs import fields
from r1pipe.costs.recipes import (
    REAL_SOLUTION_TOKENS,
    adapter_parameters,
    as_before,
    batch_limit,
    completion_length,
    going_on,
    length_assumption,
    sampling_place,
    training_place,
)
from r1pipe.costs.work import Cost, InfoMap, ModelInfo, ProblemsInfo, Range, SamplingWork, Training
from r1pipe.generator_settings import Expected
from r1pipe.settings import Placement


def rollouts(
    params: fields.Rollouts, run: fields.RollsOut, inputs: InfoMap, *, has_critic: bool = False
) -> Cost:
    """Return the cost of GRPO from the fields of `stages/grpo.py`.

    Completions of groups whose advantages are all zero may be left out of the backward pass, if
    neither a KL term nor a critic gives them a gradient; the range then reaches down to a third of
    them being trained.
    The reference scores every completion once, and so does the policy before several updates on a
    rollout if the sampler is corrected for.
    """
    model, share = inputs["model"], shown_share(params)
    problems = partly_solved(inputs["problems"], share, params.max_tokens)
    problems = as_before(problems, run.expect)
    completions = params.num_steps * params.problems_per_step * params.group_size
    length = completion_length(problems, params.max_tokens, run.expect)
    tokens = (problems.prompt_tokens + length) * completions
    has_reference = params.kl_coef > 0
    has_old = params.sampler_truncation is not None and params.minibatches_per_rollout > 1
    training = Training(
        model=model,
        where=training_place(params, run),
        tokens=tokens if has_reference or has_critic else Range(tokens.low / 3, tokens.high),
        updates=Range(params.num_steps),
        mean_tokens=(problems.prompt_tokens + length).high,
        longest=params.max_tokens + math.ceil(problems.prompt_tokens.high),
        micro_batch_tokens=run.micro_batch_tokens,
        scored_tokens=tokens * (has_reference + has_old),
        frozen_copies=int(has_reference and params.adapter is None),  # else it is the base itself
        adapter_parameters=adapter_parameters(params.adapter, model),
        is_quantized=params.adapter is not None and params.adapter.quantize is not None,
        whole_copies=(2 if params.preference else 0)
        + (params.process == "model")
        + ("reward" in inputs)
        + copies_ahead(params.staleness, sampling_place(params, run)),
    )
    sampling = rollout_sampling(params, run, model, problems, training.where.processes)
    ahead = params.num_steps // params.minibatches_per_rollout if params.staleness else 0
    assumes = length_assumption(inputs["problems"], params.max_tokens, run.expect)
    if share:
        assumes += (f"{share:.0%} of a worked solution given with the problem on average",)
    return Cost(
        {"model": model},
        training=(training,),
        sampling=(sampling,),
        rollouts_ahead=ahead,
        assumes=assumes,
    )


def shown_share(params: fields.Rollouts) -> float:
    """Return the mean share of a worked solution that is given with its problem, from 0 to 1.

    AdaBack draws it from a problem's interval, which is [0, 1] at first, but shows nothing in
    `zero_frac` of the draws: (1 - zero_frac) / 2. That it stays so is an assumption: the search
    goes to 0 for what the policy can do, and to 1 for what it cannot. R3 shows j of n slices, j
    from 0 to n - 1, each as often, stage by stage too: (n - 1) / 2n.
    """
    if params.adaback is not None:
        return (1 - params.adaback.zero_frac) / 2
    if params.r3 is not None:
        return (params.r3.num_slices - 1) / (2 * params.r3.num_slices)
    return 0.0


def partly_solved(problems: ProblemsInfo, share: float, max_tokens: int) -> ProblemsInfo:
    """Return problems with a share of their solutions in the prompt, which is not sampled.

    All problems are taken to have a solution, as long as a completion where that is known.
    """
    if not share:
        return problems
    solution = problems.completion_tokens or REAL_SOLUTION_TOKENS
    whole = completion_length(problems, max_tokens, Expected())
    return replace(
        problems,
        prompt_tokens=problems.prompt_tokens + solution * share,
        completion_tokens=whole * (1 - share),
    )


def copies_ahead(staleness: int, sampler: Placement) -> int:
    """Return the copies of the weights that sampling ahead keeps on a trainer's device: the
    sampler's own, unless it is on a cluster, and on a CPU those of the rollouts that are begun."""
    if not staleness:
        return 0
    return (not sampler.on_cluster) + (staleness if sampler.device.startswith("cpu") else 0)


def rollout_sampling(
    params: fields.Rollouts,
    run: fields.RollsOut,
    model: ModelInfo,
    problems: ProblemsInfo,
    num_trainers: int,
) -> SamplingWork:
    """Return the sampling of all rollouts; each rank that trains has a sampler of its own, unless
    they are on a cluster."""
    completions = params.num_steps * params.problems_per_step * params.group_size
    per_round = params.problems_per_step * params.minibatches_per_rollout * params.group_size
    place, draws = sampling_place(params, run), Range(1, params.dynamic_sampling or 1)
    beside = 0 if place.on_cluster else num_trainers
    where = replace(place, processes=max(place.processes, beside))
    work = SamplingWork(
        model=model,
        where=where,
        completions=draws * completions,
        prompts=draws * (completions / params.group_size),
        prompt_tokens=problems.prompt_tokens,
        completion_tokens=completion_length(problems, params.max_tokens, run.expect),
        longest=params.max_tokens,
        at_once=min(math.ceil(per_round / where.engines), batch_limit(run)),
        rounds=draws * (params.num_steps // params.minibatches_per_rollout),
        waits=draws * (params.num_steps // params.minibatches_per_rollout),
    )
    return going_on(work, params.tools)


def with_teacher(params: fields.AsRollouts, run: fields.DistilsOnPolicy, inputs: InfoMap) -> Cost:
    """Return the cost of on-policy distillation: that of GRPO whose reference is the teacher.

    The teacher is whole on every device, beside an adapter too, and its forward pass is its own
    size's; behind a server it costs nothing here.
    """
    found, model, teacher = (
        rollouts(params.as_grpo(), run, inputs),
        inputs["model"],
        inputs["teacher"],
    )
    (training,) = found.training
    is_here = run.teacher is None
    copies = teacher.num_parameters / model.num_parameters if is_here else 0.0
    scored = training.scored_tokens * (teacher.active_parameters / model.active_parameters)
    training = replace(
        training,
        frozen_copies=0,
        whole_copies=training.whole_copies + copies,
        scored_tokens=scored if is_here else Range(0),
    )
    return replace(found, training=(training,))


def with_critic(params: fields.AsRollouts, run: fields.RollsOut, inputs: InfoMap) -> Cost:
    """Return the cost of PPO from the fields of `stages/ppo.py`: that of GRPO, and a critic's.

    The critic trains on every completion, and values each once before; its weights, gradients and
    moments, 16 bytes a parameter in float32, are in memory beside the policy's. An adapter is the
    policy's alone.
    """
    found = rollouts(params.as_grpo(), run, inputs, has_critic=True)
    critic = inputs.get("critic", inputs["model"])
    (policy,) = found.training
    second = replace(
        policy,
        model=critic,
        scored_tokens=policy.tokens,
        is_counted=False,
        frozen_copies=0,
        whole_copies=0,
        adapter_parameters=None,
        is_quantized=False,
    )
    beside = replace(policy, whole_copies=policy.whole_copies + 4)
    outputs = {**found.outputs, "critic": critic}
    return replace(found, outputs=outputs, training=(beside, second))
