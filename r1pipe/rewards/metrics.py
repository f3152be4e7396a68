"""What is said of a rollout: in the log, and in errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from r1pipe.records import Group, Rollout
from r1pipe.text import visible

FLAT = "flat_group_frac"


def rollout_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Return what is logged of one rollout: rewards, pass rate, length, truncation, flat groups."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    count = len(rollouts)
    names = sorted({name for rollout in rollouts for name in rollout.rewards})
    metrics = {
        f"reward_{name}": sum(r.rewards[name] for r in having) / len(having)
        for name in names
        if (having := [r for r in rollouts if name in r.rewards])
    }
    flat = sum(not any(any(r.streams["advantage"]) for r in g.rollouts) for g in groups)
    return metrics | {
        "reward": sum(r.reward for r in rollouts) / count,
        "pass_rate": sum(r.verdict == "correct" for r in rollouts) / count,
        "completion_tokens": sum(len(r.completion_ids) for r in rollouts) / count,
        "truncated_frac": sum(r.finish_reason == "length" for r in rollouts) / count,
        FLAT: flat / len(groups),
    }


def without_groups(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return metrics without those of groups, for methods that compare no completions of one."""
    return {name: value for name, value in metrics.items() if name != FLAT}


def problem_of(rollout: Rollout, groups: Sequence[Group]) -> str:
    """Return the name of the problem that a rollout of some groups answers."""
    found = (g.problem.id for g in groups if any(each is rollout for each in g.rollouts))
    return f"problem {visible(next(found, 'unknown'))}"
