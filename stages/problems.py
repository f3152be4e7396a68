"""Problems of one split: from the synthetic world, or from a real data set.

Paper: arXiv:2501.12948v2, Table 4 (the RL data) and appendix D.1 (decontamination).

In: optionally `source`, a data set from outside, and `held_out`, problems to stay apart from.
Out: `problems`.

Synthetic splits are disjoint by construction (a problem's content decides its split). An n-gram
overlap test against `held_out` takes out what shares long phrases with it, and counts that.

Run it with `r1pipe stage problems`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from r1pipe.errors import StageError
from r1pipe.plugins.tables import EntryOf
from r1pipe.records import Problem
from r1pipe.settings import World
from r1pipe.stage import Context, Input, Inputs, StageModel

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, InfoMap
    from r1pipe.data.problem_sets import Rules
    from r1pipe.files import Record
    from r1pipe.tasks.world import Task

VERSION = 1
INPUTS = {
    "source": Input("dataset", optional=True),
    "held_out": Input("problems", optional=True),
}
OUTPUTS = {"problems": "problems"}
MANY_OVERLAPS = 0.1
"""Share of the problems that may overlap with the held-out ones before a warning."""


class Columns(StageModel):
    """How to read a data set of problems; what is left out is found from its first rows.

    A name may lead into an object: `reward_model.ground_truth`.
    """

    prompt: str | None = None
    """Column of the question: a text, or a conversation's system and user turns."""
    answer: str | None = None
    """Column of the answer or worked solution."""
    gold: Literal["hash", "boxed", "column"] | None = None
    """Where the gold answer is: after `####`, in the last box, or the column itself."""
    solution: str | None = None
    """Column of a worked solution, if `answer` has the answer alone."""
    language: str = "en"
    """Language of the questions (ISO 639-1)."""
    checked_by: Annotated[str, EntryOf("checkers", lambda: ("rule", "judge"))] = "rule"
    """A rule, or (answers in words, taken as they are) an LLM judge: a stage of kind `judge`, or a
    plugin's checker."""
    task: str = "math"
    """The problems' task in rows, quotas and reports."""
    max_unusable_frac: float = Field(default=0.02, ge=0, le=1)
    """Share of gold answers that may be unusable; more than that stops the stage."""
    rules: Literal[2] = 2
    """Raised when a data set's rows are read in another way: it is in the key."""

    @model_validator(mode="after")
    def _is_whole(self) -> Columns:
        told = (self.prompt, self.answer, self.gold)
        if any(told) and not all(told):
            raise ValueError("give prompt, answer and gold together, or none of them to find them")
        if self.solution is not None and not all(told):
            raise ValueError("'solution' goes with prompt, answer and gold")
        return self


class Params(StageModel):
    """Parameters that decide the problems."""

    seed: int
    num_problems: int = Field(gt=0)
    """Wanted from the world; at most so many from a data set."""
    split: Literal["train", "held-out"] = "train"
    """Side of the world that they come from."""
    world: World | None = None
    """Synthetic problems; needed if there is no `source`."""
    solutions: bool = False
    """Write a worked solution to each problem of the world, for curricula that show parts of it;
    its answer becomes the gold one."""
    judged_tasks: tuple[str, ...] = ()
    """Tasks of the world whose answers are left to an LLM judge."""
    columns: Columns | None = None
    """How to read `source`; found from its first rows if it is left out."""
    max_bad_frac: float = Field(default=0.01, ge=0, le=1)
    """Share of a data set's rows that may be unusable for another reason than the gold answer: no
    prompt, or a prompt that came before with another answer."""
    max_chars: int | None = Field(default=None, gt=0)
    """Problems of a data set whose question has more characters are left out and counted."""
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
        shared, num_all = {hit.train_index for hit in hits}, len(problems)
        problems = [p for i, p in enumerate(problems) if i not in shared]
        context.note(overlaps_removed=len(shared), held_out=len(held_out))
        if not problems:
            raise StageError(
                f"{context.name}: every problem shares {params.ngram} words in a row with one of"
                " 'held_out'; give other problems, or raise ngram"
            )
        if len(shared) > MANY_OVERLAPS * num_all:
            context.warn(
                f"{len(shared)} of {num_all} problems share {params.ngram} words in a row with one"
                " of 'held_out', and are left out; problems from one template do, which differ in"
                " a number alone: raise params.ngram, or hold out other ones"
            )
    write_problems(context.output("problems"), problems)
    context.note(num_problems=len(problems))
    for problem in problems[:8]:
        context.sample(id=problem.id, prompt=problem.prompt, gold=problem.gold)


def _draw(params: Params, name: str) -> list[Problem]:
    from r1pipe.tasks.table import all_tasks
    from r1pipe.tasks.world import sample_problems

    if params.world is None:
        raise StageError(f"{name}: needs params.world, or an input `source`")
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
    if params.solutions:
        drawn = [_with_solution(problem, tasks[problem.task], params.seed) for problem in drawn]
    return [replace(p, checker="judge") if p.task in params.judged_tasks else p for p in drawn]


def _with_solution(problem: Problem, task: Task, seed: int) -> Problem:
    """Return a problem with what a perfect author writes, if that has a right answer."""
    from r1pipe.chat import boxed
    from r1pipe.records import Verdict
    from r1pipe.tasks.world import Noise
    from r1pipe.verify import verify

    rng = random.Random(f"{seed}:solution:{problem.id}:{problem.language}")
    found = task.solve(problem, rng, Noise())
    if verify(problem, boxed(found.answer)) is not Verdict.CORRECT:
        return problem
    return replace(problem, solution=found.thought, gold=found.answer)


def _read(params: Params, inputs: Inputs, context: Context) -> list[Problem]:
    from r1pipe.data.problem_sets import load_problems
    from r1pipe.files import first_records

    path = inputs.path("source")
    rules = _rules(params, path, first_records(path))
    problems, report = load_problems(
        path, rules, params.num_problems, params.seed, context.stop_if_asked
    )
    context.note(**report.as_note())
    return problems


def _rules(params: Params, path: Path, rows: Sequence[Record]) -> Rules:
    """Return how the data set is read: as the parameters say, or as its first rows show."""
    from r1pipe.data.problem_sets import Rules, columns_of
    from r1pipe.data.problem_shapes import ProblemColumns

    columns, given = params.columns or Columns(), None
    if columns.prompt and columns.answer and columns.gold:
        names = (columns.prompt, columns.answer, columns.gold, columns.solution)
        given = ProblemColumns("columns as told", *names)
    return Rules(
        columns=columns_of(path, rows, given),
        language=columns.language,
        task=columns.task,
        checked_by=columns.checked_by,
        max_bad_frac=params.max_bad_frac,
        max_unusable_frac=columns.max_unusable_frac,
        max_chars=params.max_chars,
    )


def look(params: Params, inputs: Inputs) -> Mapping[str, str]:
    """Say what the first rows of the data set are taken for."""
    from r1pipe.data.problem_sets import found_in
    from r1pipe.files import first_records

    if "source" not in inputs:
        return {}
    path = inputs.path("source")
    rows = first_records(path)
    return {"source": found_in(path, rows, _rules(params, path, rows))}


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
