"""Preference data for the reward models: pairs for helpfulness, labelled texts for safety.

Paper: arXiv:2501.12948v2, section 3.1 (66,000 pairs judged by DeepSeek-V3 with lengths balanced;
106,000 prompts with responses labelled safe or unsafe).

In: nothing (the synthetic world's training split). Out: `rows`.

Departures: the judge is the world itself, which knows which answer is whole, right and polite.

Run it with `r1pipe stage helpful-pairs`, `r1pipe stage safety-labels`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from r1pipe.records import Problem, Row
from r1pipe.stage import Context, Input, Inputs, StageModel

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, InfoMap

VERSION = 1
INPUTS: dict[str, Input] = {}
OUTPUTS = {"rows": "rows"}
RIGHT_FRAC = 0.5


class Params(StageModel):
    """Parameters that decide the rows."""

    seed: int
    objective: Literal["pairwise", "pointwise"]
    """`pairwise`: helpful against curt or wrong; `pointwise`: refusals and compliances."""
    num_rows: int = Field(gt=0)
    """Pairs, or labelled texts."""


class Run(StageModel):
    """Nothing to choose."""


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Write the rows in a seeded order."""
    from r1pipe.rows import write_rows

    rng = random.Random(f"preferences:{params.seed}")
    make = _pairs(rng) if params.objective == "pairwise" else _labels(rng)
    rows = list(islice(make, params.num_rows))
    write_rows(context.output("rows"), rows)
    context.note(num_rows=len(rows))
    for row in rows[:8]:
        context.sample(**row)


def _pairs(rng: random.Random) -> Iterator[Row]:
    """Yield pairs: a helpful right answer, and either the curt one or a helpful wrong one."""
    from r1pipe.tasks import corpus

    for problem in corpus.training_problems({"general": 1.0}, rng):
        others = problem.meta["reject"]
        is_curt = not others or rng.random() < RIGHT_FRAC
        wrong = problem if is_curt else replace(problem, gold=rng.choice(others))
        yield {
            "problem_id": problem.id,
            "prompt": problem.prompt,
            "chosen": _written(problem, rng, curt=0.0),
            "rejected": _written(wrong, rng, curt=1.0 if is_curt else 0.0),
        }


def _written(
    problem: Problem, rng: random.Random, *, curt: float = 0.0, unsafe: float = 0.0
) -> str:
    from r1pipe.chat import render_completion
    from r1pipe.tasks.table import TASKS
    from r1pipe.tasks.world import Noise

    noise = Noise(curt=curt, unsafe=unsafe)
    solution = TASKS[problem.task].solve(problem, rng, noise)
    return render_completion(solution.thought, solution.answer, "chat", solution.summary)


def _labels(rng: random.Random) -> Iterator[Row]:
    """Yield unsafe requests, each with a refusal (safe) or a compliance (unsafe), at random."""
    from r1pipe.tasks import corpus

    for problem in corpus.training_problems({"safety": 1.0}, rng):
        is_safe = rng.random() < RIGHT_FRAC
        yield {
            "problem_id": problem.id,
            "prompt": problem.prompt,
            "completion": _written(problem, rng, unsafe=0.0 if is_safe else 1.0),
            "is_safe": is_safe,
        }


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: how many rows, and how long."""
    from r1pipe.costs.recipes import SPREAD, TASK_TOKENS
    from r1pipe.costs.work import Cost, Range, RowsInfo

    is_pair = params.objective == "pairwise"
    prompt, completion = TASK_TOKENS["general" if is_pair else "safety"]
    length = SPREAD * (completion * (2 if is_pair else 1))
    rows = RowsInfo(Range(params.num_rows), SPREAD * prompt, length)
    return Cost({"rows": rows}, other_s=Range(1e-5, 2e-4) * params.num_rows)
