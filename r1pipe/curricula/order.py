"""Order of the problems: which of them each rollout has."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from r1pipe.method_params.policies import GrpoParams
from r1pipe.records import Problem


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
    epoch, queue, place = 0, list[Problem](), 0
    while True:
        while len(queue) - place < per_rollout:
            order = list(problems)
            random.Random(f"{seed}:problems:{epoch}").shuffle(order)
            queue, place = queue[place:] + order, 0
            epoch += 1
        yield queue[place : place + per_rollout]
        place += per_rollout
