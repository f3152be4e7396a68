"""Rollouts told by every rank to every rank, so that all train on all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, MutableSequence, Sequence
from dataclasses import fields
from itertools import chain, islice

import numpy as np
import pyarrow as pa

from r1pipe.ranks import Ranks
from r1pipe.records import FinishReason, Group, Problem, Rollout, Verdict
from r1pipe.tables import gather_tables, ragged, rows_of

IDS = ("prompt_ids", "completion_ids")
STREAM = "stream:"
REST = [each.name for each in fields(Rollout) if each.name not in (*IDS, "streams")]


def gather_groups(ranks: Ranks, problems: Sequence[Problem], mine: list[Group]) -> list[Group]:
    """Return the groups of all problems, given those of this rank's share: all train on all."""
    if ranks.size == 1:
        return mine
    table = to_table([rollout for group in mine for rollout in group.rollouts])
    sizes = ranks.gather([len(group.rollouts) for group in mine])
    rollouts = chain.from_iterable(map(from_table, gather_tables(ranks, table)))
    return [
        Group(problem, list(islice(rollouts, size)))
        for problem, size in zip(problems, chain.from_iterable(sizes), strict=True)
    ]


def to_table(rollouts: Sequence[Rollout]) -> pa.Table:
    """Return rollouts as a table: columns of numbers for the tokens, JSON for the rest."""
    streams = sorted({name for rollout in rollouts for name in rollout.streams})
    rest = [{name: getattr(rollout, name) for name in REST} for rollout in rollouts]
    return pa.table(
        {name: ragged([getattr(r, name) for r in rollouts], np.int64) for name in IDS}
        | {
            STREAM + name: ragged([r.streams[name] for r in rollouts], np.float64)
            for name in streams
        }
        | {"rest": pa.array(map(json.dumps, rest), pa.large_string())}
    )


def from_table(table: pa.Table) -> Iterator[Rollout]:
    """Yield the rollouts of a table that `to_table` made."""
    prompts, completions = (rows_of(table[name], "i") for name in IDS)
    names = [name for name in table.column_names if name.startswith(STREAM)]
    streams = {name.removeprefix(STREAM): rows_of(table[name], "d") for name in names}
    for number, text in enumerate(table["rest"].to_pylist()):
        row = json.loads(text)
        row["verdict"] = None if row["verdict"] is None else Verdict(row["verdict"])
        row["finish_reason"] = FinishReason(row["finish_reason"])
        row["steps"] = [(end, reward) for end, reward in row["steps"]]
        own: dict[str, MutableSequence[float]] = {n: rows[number] for n, rows in streams.items()}
        yield Rollout(prompts[number], completions[number], **row, streams=own)
