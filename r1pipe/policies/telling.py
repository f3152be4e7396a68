"""A rollout that rank 0 made, told to the other ranks: all train on it."""

from __future__ import annotations

from itertools import chain, islice
from typing import NamedTuple

from r1pipe.generate.gathering import from_table, to_table
from r1pipe.keys import JsonObject
from r1pipe.ranks import Ranks
from r1pipe.records import Group, Problem, Trained
from r1pipe.tables import gather_tables


class Made(NamedTuple):
    """A rollout, and when its sampling began and ended."""

    rollout: Trained
    began: float
    ended: float


def told(ranks: Ranks, made: Made | None) -> Made:
    """Return rank 0's rollout on every rank; the others have none to tell."""
    if ranks.size > 1:
        groups = _all_groups(made.rollout) if made is not None else []
        table = to_table(list(chain.from_iterable(group.rollouts for group in groups)))
        rows = gather_tables(ranks, table)[0]
        facts = ranks.gather({} if made is None else _facts(made, groups))[0]
        if made is None:
            rollouts = from_table(rows)
            found = [
                Group(Problem.from_row(row), list(islice(rollouts, size)), revealed)
                for row, size, revealed in facts["groups"]
            ]
            kept = [found[place] for place in facts["kept"]]
            sampled = found[: facts["num_sampled"]]
            trained = Trained(facts["number"], kept, sampled, facts["metrics"], facts["curriculum"])
            return Made(trained, *facts["times"])
    assert made is not None, "rank 0 has made one"
    return made


def _all_groups(rollout: Trained) -> list[Group]:
    """Return the groups that were sampled, and any that only training has."""
    known = set(map(id, rollout.sampled))
    return [*rollout.sampled, *(group for group in rollout.groups if id(group) not in known)]


def _facts(made: Made, groups: list[Group]) -> JsonObject:
    """Return what is no token, as JSON values."""
    places = {id(group): place for place, group in enumerate(groups)}
    return {
        "number": made.rollout.number,
        "groups": [(g.problem.to_row(), len(g.rollouts), g.revealed) for g in groups],
        "kept": [places[id(group)] for group in made.rollout.groups],
        "num_sampled": len(made.rollout.sampled),
        "metrics": dict(made.rollout.metrics),
        "curriculum": made.rollout.curriculum,
        "times": (made.began, made.ended),
    }
