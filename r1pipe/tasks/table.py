"""Synthetic sources of problems, reasoning-gym's among them; `data.problem_sets` reads files."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from r1pipe.plugins.tables import Entry, with_plugins
from r1pipe.tasks import (
    arithmetic,
    chain_of_parities,
    choice,
    countdown,
    countdown_four,
    general,
    parity,
    program,
    safety,
)
from r1pipe.tasks.gym import NO_CONFIGS, Configs, gym_tasks
from r1pipe.tasks.world import Task

TASKS: dict[str, Task] = {
    "arithmetic": arithmetic.TASK,
    "chain-of-parities": chain_of_parities.TASK,
    "chain-of-rare-ones": chain_of_parities.RARE_ONES,
    "choice": choice.TASK,
    "countdown": countdown.TASK,
    "countdown-four": countdown_four.TASK,
    "general": general.TASK,
    "parity": parity.TASK,
    "program": program.TASK,
    "safety": safety.TASK,
}


def all_tasks(configs: Configs = NO_CONFIGS) -> dict[str, Task]:
    """Return these tasks, those of reasoning-gym and those of plugins, by name."""
    table = with_plugins("tasks", TASKS | gym_tasks(configs)).items()
    return {name: _guarded(task) if isinstance(task, Entry) else task for name, task in table}


def _guarded(entry: Entry) -> Task:
    """Return a plugin's task; what it raises is an error at its line."""
    task = entry.value
    if not isinstance(task, Task):
        raise entry.wrong("must be a r1pipe.tasks.world.Task")
    make, solve = partial(entry.run, task.make), partial(entry.run, task.solve)
    return replace(task, make=make, solve=solve)
