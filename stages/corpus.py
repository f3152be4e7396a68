"""Rows by an imperfect author: the pretraining corpus, or the general rows of the mix.

Paper: none for the corpus (the paper starts from DeepSeek-V3-Base); the general rows stand for the
200k non-reasoning rows of arXiv:2501.12948, section 2.3.3.

In: optionally `problems` with worked solutions (a real data set); else the synthetic world.
Out: `rows`.

Run it with `r1pipe stage corpus`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from r1pipe.errors import StageError
from r1pipe.records import Row
from r1pipe.settings import FormatParam, Prompt, World, format_of
from r1pipe.stage import Context, Input, Inputs, StageModel

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, InfoMap

VERSION = 1
INPUTS = {"problems": Input("problems", optional=True)}
OUTPUTS = {"rows": "rows"}


class Author(StageModel):
    """How imperfect the author is: the probability of each fault."""

    wrong_step: float = Field(default=0.0, ge=0, le=1)
    """One step's result is wrong."""
    skipped_step: float = Field(default=0.0, ge=0, le=1)
    """One step's result, unless it is the last, is not written (arithmetic, choice, parity): the
    next one takes two steps at once, so that a shorter thought is a harder one."""
    mixed_word: float = Field(default=0.0, ge=0, le=1)
    """One word of the thought is in the other language."""
    curt: float = Field(default=0.0, ge=0, le=1)
    """A general prompt is answered by the bare content."""
    unsafe: float = Field(default=0.0, ge=0, le=1)
    """An unsafe request is complied with."""


class Params(StageModel):
    """Parameters that decide the rows."""

    seed: int
    num_rows: int = Field(gt=0)
    """Rows to write; at most as many as there are problems if those are given."""
    format: FormatParam
    """Completion format: `r1-zero`, `chat`, or an own one."""
    prompt: Prompt | None = None
    """A system message, and what follows every question."""
    world: World | None = None
    """Synthetic problems of the training split; needed if no `problems` are given."""
    author: Author = Author()
    thought_frac: float = Field(default=1.0, ge=0, le=1)
    """Share of rows with a thought (r1-zero format)."""
    unformatted_frac: float = Field(default=0.0, ge=0, le=1)
    """Share of rows without any tags (r1-zero format)."""


class Run(StageModel):
    """Nothing to choose."""


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Write the rows in a seeded order."""
    from r1pipe.rows import write_rows

    rng = random.Random(f"corpus:{params.seed}")
    if "problems" in inputs:
        rows = list(islice(_from_solutions(inputs.path("problems"), params, rng), params.num_rows))
    else:
        rows = list(islice(_from_world(params, rng, context.name), params.num_rows))
    if not rows:
        raise StageError(
            f"{context.name}: none of its problems has a worked solution, so there is nothing to"
            " write; give problems whose data set has solutions, or params.world"
        )
    write_rows(context.output("rows"), rows)
    context.note(num_rows=len(rows))
    for row in rows[:8]:
        context.sample(prompt=row["prompt"], completion=row["completion"])


def _from_world(params: Params, rng: random.Random, name: str) -> Iterator[Row]:
    from r1pipe.tasks import corpus
    from r1pipe.tasks.table import all_tasks
    from r1pipe.tasks.world import Noise

    if params.world is None:
        raise StageError(f"{name}: needs params.world or an input `problems`")
    world = params.world
    fmt = format_of(params.format, params.prompt)
    noise, tasks = Noise(**params.author.model_dump()), all_tasks(world.configs)
    drawn = corpus.training_problems(world.mix, rng, world.languages, world.levels, world.configs)
    for problem in drawn:
        solution = tasks[problem.task].solve(problem, rng, noise)
        yield corpus.solution_row(
            problem, solution, fmt, rng, params.thought_frac, params.unformatted_frac
        )


def _from_solutions(folder: Path, params: Params, rng: random.Random) -> Iterator[Row]:
    from r1pipe.rows import read_problems
    from r1pipe.tasks import corpus
    from r1pipe.tasks.world import Solution, summarise

    problems = [p for p in read_problems(folder) if p.solution]
    rng.shuffle(problems)
    fmt = format_of(params.format, params.prompt)
    for problem in problems:
        solution = Solution(
            problem.solution or "", problem.gold, summarise(problem.gold, problem.language)
        )
        yield corpus.solution_row(
            problem, solution, fmt, rng, params.thought_frac, params.unformatted_frac
        )


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: how many rows, and how long."""
    from r1pipe.costs.recipes import real_rows, world_rows
    from r1pipe.costs.work import Cost, Range

    if "problems" in inputs:
        rows = real_rows(inputs["problems"], params.num_rows)
    else:
        rows = world_rows(params, Range(params.num_rows))
    return Cost({"rows": rows}, other_s=Range(1e-5, 1e-4) * params.num_rows)
