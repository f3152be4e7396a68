"""Rewards: `(Problem, text) -> float` in [0, 1], in one table, and their weighted sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from r1pipe.errors import StageError
from r1pipe.records import Problem, Verdict
from r1pipe.rewards.accuracy import accuracy
from r1pipe.rewards.code import code
from r1pipe.rewards.format import format_chat, format_zero
from r1pipe.rewards.language import language
from r1pipe.rewards.length import length
from r1pipe.verify import verify_many

Reward = Callable[[Problem, str], float]

REWARDS: dict[str, Reward] = {
    "accuracy": accuracy,
    "code": code,
    "format_chat": format_chat,
    "format_zero": format_zero,
    "language": language,
    "length": length,
}


def score(
    problem: Problem, text: str, weights: Mapping[str, float]
) -> tuple[dict[str, float], float]:
    """Return each named reward of one completion, and their weighted sum."""
    rewards = {name: _reward(name)(problem, text) for name in weights}
    return rewards, weighted_sum(rewards, weights)


def score_many(
    pairs: Sequence[tuple[Problem, str]], weights: Mapping[str, float]
) -> list[tuple[dict[str, float], float, Verdict]]:
    """Score many completions; their accuracy is judged together, so that workers run in parallel.

    Returns rewards by name, the weighted sum and the verdict of each (the verdict is found whether
    or not accuracy has a weight).
    """
    others = {name: _reward(name) for name in weights if name != "accuracy"}
    verdicts = verify_many(pairs)
    scored = []
    for (problem, text), verdict in zip(pairs, verdicts, strict=True):
        rewards = {name: reward(problem, text) for name, reward in others.items()}
        if "accuracy" in weights:
            rewards["accuracy"] = float(verdict is Verdict.CORRECT)
        scored.append((rewards, weighted_sum(rewards, weights), verdict))
    return scored


def weighted_sum(rewards: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Return the sum of weight x reward over the named weights."""
    return sum(weight * rewards[name] for name, weight in weights.items())


def _reward(name: str) -> Reward:
    if name not in REWARDS:
        known = ", ".join(sorted(REWARDS))
        raise StageError(f"rewards: no reward is called {name!r}; choose one of {known}")
    return REWARDS[name]
