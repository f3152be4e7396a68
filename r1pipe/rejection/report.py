"""The report on adaptive sampling: its cost, and the problems without a row."""

from __future__ import annotations

from collections import Counter

from r1pipe.keys import JsonObject
from r1pipe.rejection.schedule import Schedule


def cost_of_fixed(schedule: Schedule, target_rows: int) -> dict[str, int]:
    """Estimate what sampling every problem `samples_per_problem` times would have cost.

    Problems in their order until the target is reached, each with the share of new rows and the
    tokens that its own samples had; one that was never sampled with those of all together. More
    samples give more repeats, so the rows are an upper bound and the cost a lower one.
    """
    limit = schedule.params.samples_per_problem
    totals = schedule.num_samples, schedule.num_new, schedule.num_tokens
    all_samples, all_new, all_tokens = map(sum, totals)
    rows = tokens = 0.0
    num_problems = 0
    for own, new, own_tokens in zip(*totals, strict=True):
        if rows >= target_rows:
            break
        num_problems += 1
        rows += limit * (new / own if own else all_new / all_samples)
        tokens += limit * (own_tokens / own if own else all_tokens / all_samples)
    return {
        "samples": num_problems * limit,
        "tokens": round(tokens),
        "rows": min(round(rows), target_rows),
    }


def sampling_report(schedule: Schedule, target_rows: int) -> JsonObject:
    """Return the cost of sampling and the problems' outcomes, also by task and level.

    `lost` are the problems that were sampled and have no row; `not_reached` were never sampled.
    """
    statuses: Counter[str] = Counter()
    groups: dict[str, Counter[str]] = {}
    lost: dict[str, list[str]] = {}
    for place, problem in enumerate(schedule.problems):
        status = schedule.status(place)
        statuses[status] += 1
        group = groups.setdefault(f"{problem.task} {problem.level}", Counter())
        rows, samples = schedule.num_new[place], schedule.num_samples[place]
        group.update(problems=1, samples=samples, rows=rows)
        group.update(with_rows=rows > 0, not_reached=status == "not_reached")
        if samples and not rows:
            lost.setdefault(status, []).append(problem.id)
    return {
        "samples": sum(schedule.num_samples),
        "tokens": sum(schedule.num_tokens),
        "fixed_n": cost_of_fixed(schedule, target_rows),
        "problems": dict(statuses),
        "groups": {name: dict(counts) for name, counts in sorted(groups.items())},
        "lost": lost,
    }
