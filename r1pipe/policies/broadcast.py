"""A batch of rollouts that rank 0 made, sent to the other ranks: all train on it."""

from __future__ import annotations

from itertools import chain, islice
from typing import NamedTuple

from r1pipe.generate.gathering import from_table, to_table
from r1pipe.keys import JsonObject
from r1pipe.ranks import Ranks
from r1pipe.records import Group, Problem, RolloutBatch
from r1pipe.tables import gather_tables


class TimedBatch(NamedTuple):
    """A batch, and when its sampling began and ended, in seconds of one clock."""

    batch: RolloutBatch
    began: float
    ended: float


def broadcast(ranks: Ranks, made: TimedBatch | None) -> TimedBatch:
    """Return rank 0's batch on every rank; the others have none to give."""
    if ranks.size == 1:
        assert made is not None, "the only rank has made one"
        return made
    groups = _all_groups(made.batch) if made is not None else []
    table = to_table(list(chain.from_iterable(group.rollouts for group in groups)))
    rows = gather_tables(ranks, table)[0]
    facts = ranks.gather({} if made is None else _facts(made, groups))[0]
    if made is not None:
        return made
    rollouts = from_table(rows)
    all_groups = [
        Group(Problem.from_row(row), list(islice(rollouts, size)), revealed)
        for row, size, revealed in facts["groups"]
    ]
    kept = [all_groups[place] for place in facts["kept"]]
    sampled = all_groups[: facts["num_sampled"]]
    batch = RolloutBatch(facts["number"], kept, sampled, facts["metrics"], facts["curriculum"])
    return TimedBatch(batch, *facts["times"])


def _all_groups(batch: RolloutBatch) -> list[Group]:
    """Return the groups that were sampled, and any that only training has."""
    known = set(map(id, batch.sampled))
    return [*batch.sampled, *(group for group in batch.groups if id(group) not in known)]


def _facts(made: TimedBatch, groups: list[Group]) -> JsonObject:
    """Return all but the rollouts themselves, as JSON values."""
    batch, places = made.batch, {id(group): place for place, group in enumerate(groups)}
    return {
        "number": batch.number,
        "groups": [(g.problem.to_row(), len(g.rollouts), g.revealed) for g in groups],
        "kept": [places[id(group)] for group in batch.groups],
        "num_sampled": len(batch.sampled),
        "metrics": dict(batch.metrics),
        "curriculum": batch.curriculum,
        "times": (made.began, made.ended),
    }
