"""The rule rewards of one completion, by name."""

from __future__ import annotations

from collections.abc import Mapping

from r1pipe.chat import AnyFormat
from r1pipe.records import Problem
from r1pipe.rewards.completion import Completion
from r1pipe.rewards.table import COMPLETION_REWARDS, rewards_of


def rule_rewards(
    problem: Problem,
    completion: Completion,
    is_correct: bool,
    weights: Mapping[str, float],
    fmt: AnyFormat,
) -> dict[str, float]:
    """Return the rule rewards that `weights` names; what the verifier decides is known already."""
    table, found = rewards_of(fmt), dict[str, float]()
    decided = {"accuracy", *(["code"] if problem.checker == "code" else ())}
    for name in weights:
        if name in decided:
            found[name] = float(is_correct)
        elif name in COMPLETION_REWARDS:
            found[name] = COMPLETION_REWARDS[name](problem, completion)
        elif name != "preference":
            found[name] = table[name](problem, completion.text)
    return found
