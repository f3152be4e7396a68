"""Tasks of the library reasoning-gym, as `gym:NAME`: those whose answer is one number or phrase.

Its items are made by its own generators (https://github.com/open-thought/reasoning-gym). Answers
are verified by r1pipe's checkers and never by the library's scorers, several of which evaluate the
text that they score as Python. So what has several right answers (a sudoku's grid has one, a tour
has many) or is an expression or a list is left out, and so are tasks whose items differ from one
process to the next.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import lru_cache, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from r1pipe.errors import StageError
from r1pipe.keys import JsonObject, canonical_json
from r1pipe.records import Problem
from r1pipe.tasks.gym_solutions import SOLUTIONS
from r1pipe.tasks.world import Noise, Solution, Task, problem_id, summarise
from r1pipe.text import did_you_mean
from r1pipe.verify.equivalence import read_gold

if TYPE_CHECKING:
    from reasoning_gym.dataset import ProceduralDataset

PREFIX = "gym:"
NAMES = (
    "acre", "aiw", "basic_arithmetic", "binary_alternation", "caesar_cipher", "chain_sum",
    "circuit_logic", "color_cube_rotation", "count_bits", "count_primes", "course_schedule",
    "decimal_arithmetic", "decimal_chain_sum", "family_relationships", "game_of_life_halting",
    "gcd", "gsm_symbolic", "largest_island", "lcm", "leg_counting", "letter_counting", "maze",
    "needle_haystack", "number_sequence", "products", "rectangle_count", "rotten_oranges",
    "self_reference", "simple_equations", "simple_geometry", "spell_backward",
    "string_manipulation", "syllogism", "zebra_puzzles",
)  # fmt: skip
"""The library's names of the tasks that can be used."""

Configs: TypeAlias = "Mapping[str, Sequence[JsonObject]]"
"""Task -> its levels, from 1, each the fields of the library's config for that task."""
NO_CONFIGS: Configs = MappingProxyType({})


def gym_tasks(configs: Configs) -> dict[str, Task]:
    """Return the tasks by name; without a config a task has one level, the library's defaults."""
    unknown = [name for name in configs if name.removeprefix(PREFIX) not in NAMES]
    if unknown:
        bare = unknown[0].removeprefix(PREFIX)
        hint = did_you_mean(bare, NAMES, shown=PREFIX.__add__)
        raise StageError(f"world.configs: {unknown[0]!r} is no task of reasoning-gym here; {hint}")
    return {f"{PREFIX}{name}": _task(name, configs.get(f"{PREFIX}{name}", ())) for name in NAMES}


def _task(name: str, levels: Sequence[JsonObject]) -> Task:
    chosen = tuple(canonical_json(level).decode() for level in levels) or ("{}",)
    return Task(partial(_make, name, chosen), _solve, tuple(range(1, len(chosen) + 1)))


def _make(
    name: str, levels: Sequence[str], rng: random.Random, language: str, level: int
) -> Problem:
    """Return one item, in English whatever the language, as a function of one number of `rng`."""
    item = _items(name, levels[level - 1])(rng.getrandbits(31))
    gold = str(item["answer"])
    write = SOLUTIONS.get(name)
    return Problem(
        id=problem_id(f"{PREFIX}{name}", item["question"]),
        task=f"{PREFIX}{name}",
        prompt=item["question"].strip(),
        gold=gold,
        checker="word" if read_gold(gold)[1] is None else "number",
        solution=None if write is None else write(item["metadata"], gold),
        level=level,
    )


@lru_cache(maxsize=64)
def _items(name: str, config: str) -> Callable[[int], JsonObject]:
    """Return the function from a seed to an item, of a task with a config."""
    dataset_class, config_class = _classes(name)
    given = json.loads(config)
    known = {each.name for each in fields(config_class)} - {"seed", "size"}
    for field in given:
        if field not in known:
            raise StageError(
                f"world.configs.{PREFIX}{name}: no field {field!r}; it has"
                f" {', '.join(sorted(known))}"
            )

    def item(seed: int) -> JsonObject:
        settings = config_class(seed=seed, size=1, **given)
        try:
            settings.validate()
        except (AssertionError, TypeError) as error:
            raise StageError(f"world.configs.{PREFIX}{name}: {given}: {error}") from error
        made: JsonObject = dataset_class(config=settings)[0]
        return made

    return item


def _classes(name: str) -> tuple[Callable[..., ProceduralDataset], type]:
    """Return the library's classes of a task: the data set and its config."""
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise StageError(
            f"task {PREFIX}{name} needs the package reasoning-gym; run: pip install 'r1pipe[gym]'"
        ) from error
    dataset_class, config_class = DATASETS[name]
    return dataset_class, config_class


def _solve(problem: Problem, rng: random.Random, noise: Noise) -> Solution:
    """Return the written solution that came with the problem."""
    if problem.solution is None:
        written = ", ".join(f"{PREFIX}{name}" for name in sorted(SOLUTIONS))
        raise StageError(
            f"{problem.task}: no written solutions; sample them from a model (cold-start-data), or"
            f" take one of {written}"
        )
    return Solution(problem.solution, problem.gold, summarise(problem.gold, problem.language))
