"""Problems of one split: from the synthetic world, or from a real data set.

Paper: arXiv:2501.12948v2, Table 4 (the RL data) and appendix D.1 (decontamination).

In: optionally `source`, a data set from outside, and `held_out`, problems to stay apart from.
Out: `problems`.

Synthetic splits are disjoint by construction (a problem's content decides its split). An n-gram
overlap test against `held_out` takes out what shares long phrases with it, and counts that.

Run it with `r1pipe stage problems`.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from r1pipe.errors import StageError
from r1pipe.plugins.tables import EntryOf
from r1pipe.records import Problem
from r1pipe.settings import World
from r1pipe.stage import Context, Input, Inputs, StageModel

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, InfoMap

VERSION = 1
INPUTS = {
    "source": Input("dataset", optional=True),
    "held_out": Input("problems", optional=True),
}
OUTPUTS = {"problems": "problems"}


class Columns(StageModel):
    """How to read a data set of mathematics problems."""

    prompt: str
    """Column of the question."""
    answer: str
    """Column of the answer or worked solution."""
    gold: Literal["hash", "boxed", "column"]
    """Where the gold answer is: after `####`, in the last box, or the column itself."""
    language: str = "en"
    """Language of the questions (ISO 639-1)."""
    checked_by: Annotated[str, EntryOf("checkers", lambda: ("rule", "judge"))] = "rule"
    """A rule, or (answers in words, taken as they are) an LLM judge: a stage of kind `judge`, or a
    plugin's checker."""
    task: str = "math"
    """The problems' task in rows, quotas and reports."""
    max_unusable_frac: float = Field(default=0.02, ge=0, le=1)
    """Share of gold answers that may be unusable; more than that stops the stage."""


class Params(StageModel):
    """Parameters that decide the problems."""

    seed: int
    num_problems: int = Field(gt=0)
    """Wanted from the world; at most so many from a data set."""
    split: Literal["train", "held-out"] = "train"
    """Side of the world that they come from."""
    world: World | None = None
    """Synthetic problems; needed if there is no `source`."""
    judged_tasks: tuple[str, ...] = ()
    """Tasks of the world whose answers are left to an LLM judge."""
    columns: Columns | None = None
    """How to read `source`."""
    ngram: int = Field(default=10, gt=0)
    """Words of the overlap test against `held_out` (DeepSeekMath 2.1: 10)."""


class Run(StageModel):
    """Nothing to choose."""


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Draw or read problems, then check them against the held-out ones."""
    from r1pipe.data.overlap import ngram_overlaps
    from r1pipe.rows import read_problems, write_problems

    problems = _read(params, inputs, context) if "source" in inputs else _draw(params, context.name)
    if "held_out" in inputs:
        held_out = read_problems(inputs.path("held_out"))
        hits = ngram_overlaps(
            [p.prompt for p in problems], [p.prompt for p in held_out], n=params.ngram
        )
        shared = {hit.train_index for hit in hits}
        problems = [p for i, p in enumerate(problems) if i not in shared]
        context.note(overlaps_removed=len(shared), held_out=len(held_out))
    write_problems(context.output("problems"), problems)
    context.note(num_problems=len(problems))
    for problem in problems[:8]:
        context.sample(id=problem.id, prompt=problem.prompt, gold=problem.gold)


def _draw(params: Params, name: str) -> list[Problem]:
    from r1pipe.tasks.table import all_tasks
    from r1pipe.tasks.world import sample_problems

    if params.world is None:
        raise StageError(f"{name}: needs params.world, or an input `source` with params.columns")
    tasks = all_tasks(params.world.configs)
    unknown = sorted({*params.world.mix, *params.judged_tasks} - set(tasks))
    if unknown:
        raise StageError(f"{name}: no task {', '.join(unknown)}; there are {', '.join(tasks)}")
    try:
        drawn = sample_problems(
            tasks,
            params.world.mix,
            params.num_problems,
            held_out=params.split == "held-out",
            seed=params.seed,
            languages=params.world.languages,
            levels=params.world.levels,
        )
    except ValueError as error:
        raise StageError(f"{name}: {error}; ask for fewer or add levels") from error
    return [replace(p, checker="judge") if p.task in params.judged_tasks else p for p in drawn]


def _read(params: Params, inputs: Inputs, context: Context) -> list[Problem]:
    from r1pipe.tasks.math import load_math

    if params.columns is None:
        raise StageError(f"{context.name}: an input `source` needs params.columns")
    columns = params.columns
    problems = load_math(
        inputs.path("source"),
        split=None,
        prompt_column=columns.prompt,
        answer_column=columns.answer,
        gold=columns.gold,
        language=columns.language,
        task=columns.task,
        is_judged=columns.checked_by != "rule",
        limit=params.num_problems,
        seed=params.seed,
        max_unusable_frac=columns.max_unusable_frac,
    )
    context.note(**asdict(problems.report))
    if columns.checked_by in ("rule", "judge"):
        return problems
    return [replace(problem, checker=columns.checked_by) for problem in problems]


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: how many problems, and how long."""
    from r1pipe.costs.recipes import dataset_problems, world_problems
    from r1pipe.costs.work import Cost, Range

    count = params.num_problems
    if "source" in inputs:
        found = dataset_problems(inputs["source"], count)
    else:
        found = world_problems(params.world, Range(0.9 * count, count))
    return Cost({"problems": found}, other_s=Range(1e-5, 1e-3) * count)
