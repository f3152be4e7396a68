"""Sources of problems. `TASKS` are synthetic; `tasks.math` reads real data sets."""

from __future__ import annotations

from r1pipe.tasks import arithmetic, choice, countdown, general, parity, safety
from r1pipe.tasks.world import Task

TASKS: dict[str, Task] = {
    "arithmetic": arithmetic.TASK,
    "choice": choice.TASK,
    "countdown": countdown.TASK,
    "general": general.TASK,
    "parity": parity.TASK,
    "safety": safety.TASK,
}
REASONING = ("arithmetic", "choice", "countdown", "parity")
