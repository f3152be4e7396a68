"""Rows by an imperfect author: the pretraining corpus and the general rows of the mix.

A row is what supervised training reads: `prompt`, `format`, `completion` (without the
end-of-sequence token) and where it came from.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

from r1pipe.chat import AnyFormat, as_format, render_completion
from r1pipe.records import Problem
from r1pipe.tasks.gym import NO_CONFIGS, Configs
from r1pipe.tasks.table import all_tasks
from r1pipe.tasks.world import LANGUAGES, Solution, draw, is_held_out


def row(problem: Problem, completion: str, fmt: AnyFormat, source: str) -> dict[str, object]:
    """Return one training row."""
    return {
        "problem_id": problem.id,
        "task": problem.task,
        "language": problem.language,
        "format": as_format(fmt).text,
        "prompt": problem.prompt,
        "completion": completion,
        "source": source,
    }


def training_problems(
    mix: Mapping[str, float],
    rng: random.Random,
    languages: Sequence[str] = LANGUAGES,
    levels: Mapping[str, Sequence[int]] | None = None,
    configs: Configs = NO_CONFIGS,
) -> Iterator[Problem]:
    """Yield problems of the training split for ever; they may repeat."""
    tasks = all_tasks(configs)
    while True:
        problem = draw(tasks, mix, rng, languages, levels)
        if not is_held_out(problem):
            yield problem


def base_completion(
    solution: Solution, rng: random.Random, thought_frac: float, unformatted_frac: float
) -> str:
    """Write one completion of the base corpus: with a thought, without one, or without tags.

    Without tags it is as in a textbook: the working, if any, and a sentence with a boxed answer.
    """
    has_thought = rng.random() < thought_frac
    if rng.random() < unformatted_frac:
        return f"{solution.thought}\n\n{solution.summary}" if has_thought else solution.summary
    if has_thought:
        return render_completion(solution.thought, solution.answer, "r1-zero")
    full = render_completion("", solution.answer, "r1-zero")
    return full[full.index(" ") + 1 :]


def solution_row(
    problem: Problem,
    solution: Solution,
    fmt: AnyFormat,
    rng: random.Random,
    thought_frac: float,
    unformatted_frac: float,
) -> dict[str, object]:
    """Return the training row of a written solution."""
    if as_format(fmt).template == "r1-zero":
        completion = base_completion(solution, rng, thought_frac, unformatted_frac)
    else:
        completion = render_completion(solution.thought, solution.answer, fmt, solution.summary)
    return row(problem, completion, fmt, "author")
