"""Parts of a mix by name: how many rows a share is, and the columns that all parts have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from r1pipe.data.shuffle import PART
from r1pipe.data.survey import Survey
from r1pipe.errors import StageError
from r1pipe.rows import schema_of

LEAST = ("prompt",)
"""Columns that rows of any kind have."""


def counts_of_shares(
    available: Mapping[str, int], shares: Mapping[str, float], num_rows: int | None
) -> dict[str, int]:
    """Return the rows of each part: as many as there are of all together, or `num_rows` at most.

    The shares are kept, so that the part which is shortest for its share decides. What is left by
    rounding goes to the largest fractions.

    >>> counts_of_shares({"new": 90, "old": 50}, {"new": 0.9, "old": 0.1}, None)
    {'new': 90, 'old': 10}
    """
    whole = sum(shares.values())
    wanted = {part: share / whole for part, share in shares.items()}
    fits = min(available[part] / share for part, share in wanted.items())
    total = math.floor(min(fits, math.inf if num_rows is None else num_rows) + 1e-9)
    exact = {part: total * share for part, share in wanted.items()}
    counts = {part: math.floor(value + 1e-9) for part, value in exact.items()}
    by_fraction = sorted(exact, key=lambda part: counts[part] - exact[part])
    for part in by_fraction[: total - sum(counts.values())]:
        counts[part] += 1
    return counts


def distinct_rows(survey: Survey) -> dict[str, int]:
    """Return how many different rows each part has."""
    repeats = np.frombuffer(survey.repeats, np.uint8)
    return {
        part: count - int(repeats[survey.rows_of(part)].sum())
        for part, count in survey.parts.items()
    }


def common_schema(parts: Mapping[str, Path]) -> pa.Schema:
    """Return the columns of all parts, whose names must be the same, without `source`: the mix
    says in it which part a row is of.

    Raises StageError for parts of different columns, or of types that do not go together.
    """
    schemas = {part: _without_source(schema_of(folder)) for part, folder in parts.items()}
    (first, schema), *others = schemas.items()
    for part, other in others:
        if differing := set(schema.names) ^ set(other.names):
            raise StageError(
                f"inputs.parts: '{first}' and '{part}' are rows of different kinds: only one of"
                f" them has {', '.join(sorted(differing))}; mix rows that the same kind of stage"
                " wrote"
            )
    if missing := [name for name in LEAST if name not in schema.names]:
        raise StageError(f"inputs.parts: '{first}' has no column {', '.join(missing)}")
    try:
        return pa.unify_schemas(list(schemas.values()), promote_options="permissive")
    except pa.ArrowTypeError as error:
        raise StageError(f"inputs.parts: columns of different types: {error}") from None


def _without_source(schema: pa.Schema) -> pa.Schema:
    place = schema.get_field_index(PART)
    return schema if place < 0 else schema.remove(place)
