"""The 800k mix: reasoning rows and general rows, without duplicates, in a seeded order.

Paper: arXiv:2501.12948, section 2.3.3 (600k + 200k); v2, Table 5 (what is in it).

In: `reasoning` and `general` rows. Out: `rows`.

Run alone: `r1pipe stage sft-data`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from r1pipe.errors import StageError
from r1pipe.stage import Context, Input, Inputs, StageModel

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, InfoMap

VERSION = 1
INPUTS = {"reasoning": Input("rows"), "general": Input("rows")}
OUTPUTS = {"rows": "rows"}
COLUMNS = ["problem_id", "task", "language", "format", "prompt", "completion"]


class Params(StageModel):
    """What decides the mix."""

    seed: int
    reasoning_rows: int = Field(ge=0)
    """Most rows from `reasoning`; R1: 600,000."""
    general_rows: int = Field(ge=0)
    """Most rows from `general`; R1: 200,000."""


class Run(StageModel):
    """Nothing to choose."""


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Take each part up to its quota, then shuffle them together."""
    from r1pipe.rows import write_rows

    rows: list[dict[str, Any]] = []
    quotas = {"reasoning": params.reasoning_rows, "general": params.general_rows}
    for part, quota in quotas.items():
        chosen = [row for row, _ in zip(_distinct(inputs[part], part), range(quota), strict=False)]
        context.note(**{f"{part}_rows": len(chosen), f"{part}_short_of_quota": quota - len(chosen)})
        rows.extend(chosen)
    if not rows:
        raise StageError(f"{context.name}: both parts are empty")
    random.Random(f"mix:{params.seed}").shuffle(rows)
    write_rows(context.output("rows"), rows)
    context.note(
        tasks=dict(Counter(row["task"] for row in rows)),
        languages=dict(Counter(row["language"] for row in rows)),
    )
    for row in rows[:8]:
        context.sample(prompt=row["prompt"], completion=row["completion"], source=row["source"])


def _distinct(folder: Path, part: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of one part without exact repeats of prompt and completion."""
    from r1pipe.rows import read_rows

    seen: set[tuple[str, str]] = set()
    for row in read_rows(folder, columns=COLUMNS):
        mark = (row["prompt"], row["completion"])
        if mark not in seen:
            seen.add(mark)
            yield row | {"source": part}


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Say what `plan` says about it: both parts up to their quotas."""
    from dataclasses import replace

    from r1pipe.costs.recipes import mixed_rows
    from r1pipe.costs.work import Cost, Range

    quotas = {"reasoning": params.reasoning_rows, "general": params.general_rows}
    parts = [
        replace(inputs[part], num_rows=inputs[part].num_rows.at_most(quota))
        for part, quota in quotas.items()
    ]
    rows = mixed_rows(parts)
    return Cost({"rows": rows}, other_s=rows.num_rows * Range(1e-6, 1e-4))
