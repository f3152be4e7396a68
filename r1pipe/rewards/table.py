"""Rewards: `(Problem, text) -> float` in [0, 1], in one table. `format` is that of the prompt.

Those that need more than the text are given a `Completion`, and have a table of their own.

A reward's module is imported when it is first called: a plan needs their names only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Annotated, TypeVar

from r1pipe.chat import AnyFormat
from r1pipe.plugins.tables import Entry, EntryOf, with_plugins
from r1pipe.records import Problem
from r1pipe.rewards.completion import Completion

T = TypeVar("T")
Reward = Callable[[Problem, str], float]
CompletionReward = Callable[[Problem, Completion], float]


def _imported(module: str, name: str) -> Callable[[Problem, T], float]:
    """Return a function of a module, which is imported when the function is first called."""

    def reward(problem: Problem, given: T) -> float:
        function: Callable[[Problem, T], float] = getattr(import_module(module), name)
        return function(problem, given)

    return reward


REWARDS: dict[str, Reward] = {
    "accuracy": _imported("r1pipe.rewards.accuracy", "accuracy"),
    "code": _imported("r1pipe.rewards.code", "code"),
    "format_chat": _imported("r1pipe.rewards.format", "format_chat"),
    "format_zero": _imported("r1pipe.rewards.format", "format_zero"),
    "language": _imported("r1pipe.rewards.language", "language"),
    "length": _imported("r1pipe.rewards.length", "length"),
}
COMPLETION_REWARDS: dict[str, CompletionReward] = {
    "overlong": _imported("r1pipe.rewards.overlong", "overlong"),
}
FORMAT = "format"
"""The reward of the prompt's own format."""

RewardName = Annotated[str, EntryOf("rewards", lambda: (*REWARDS, *COMPLETION_REWARDS, FORMAT))]
"""The name of a reward in `Params`: one of these, or a plugin's."""


def rewards_of(fmt: AnyFormat) -> Mapping[str, Reward]:
    """Return all rewards of texts by name, for completions of one format.

    All but the format's own read completions as `recast` writes them.
    """
    from r1pipe.rewards.format import format_reward
    from r1pipe.verify.reading.recast import recast

    def reading(reward: Reward) -> Reward:
        return lambda problem, text: reward(problem, recast(text, fmt))

    table = with_plugins("rewards", REWARDS)
    checked = {name: _checked(f) if isinstance(f, Entry) else f for name, f in table.items()}
    return {name: reading(f) for name, f in checked.items()} | {FORMAT: format_reward(fmt)}


def _checked(entry: Entry) -> Reward:
    """Return a plugin's reward, which must give a number in [0, 1]."""

    def reward(problem: Problem, text: str) -> float:
        value = entry(problem, text)
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            raise entry.wrong(f"gave {value!r} for problem {problem.id}; give a number in [0, 1]")
        return float(value)

    return reward
