"""The 800k mix: reasoning rows and general rows, without duplicates, in a seeded order.

Paper: arXiv:2501.12948, section 2.3.3 (600k + 200k); v2, Table 5 (what is in it).

In: `reasoning` and `general` rows, optionally the `problems` that say a row's level. Out: `rows`,
with a data card (README.md) if one is asked for, and beside them which row stays for each
near-duplicate (near-duplicates.json) if those are taken out.

Departures: how the paper removes duplicates and balances its tasks was never published; here both
are parameters, and off unless given.

Run it with `r1pipe stage sft-data`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from r1pipe.errors import StageError
from r1pipe.records import Row
from r1pipe.stage import Context, Input, Inputs, StageModel

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, InfoMap
    from r1pipe.data.choosing import Choice, Limits
    from r1pipe.data.survey import Survey

VERSION = 1
INPUTS = {
    "reasoning": Input("rows"),
    "general": Input("rows"),
    "problems": Input("problems", optional=True, many=True),
}
OUTPUTS = {"rows": "rows"}
PARTS = ("reasoning", "general")
COLUMNS = ["problem_id", "task", "language", "format", "prompt", "completion"]
NUM_SAMPLES = 8
ROWS_PER_CHECK = 10_000


class LengthQuota(StageModel):
    """A bound on the rows of one range of lengths."""

    up_to_chars: int = Field(gt=0)
    """The range ends here (included) and begins after the next smaller one; of the completion."""
    max_rows: int = Field(ge=0)
    """Most rows in it."""


class Quotas(StageModel):
    """Most rows by task, level and length, over both parts; what is not named is not bounded."""

    tasks: dict[str, int] = Field(default_factory=dict)
    """Task -> most rows; R1: math 395,285, code 211,129, STEM 10,124, logic 10,395, general
    177,812."""
    levels: dict[str, int] = Field(default_factory=dict)
    """Level (as text: `"3"`) -> most rows."""
    lengths: tuple[LengthQuota, ...] = ()
    """Ranges of completion lengths in characters, in any order."""


class Card(StageModel):
    """What the data card says that the rows do not."""

    title: str = "Reasoning and general rows"
    sources: dict[str, str] = Field(default_factory=dict)
    """Where each part (`reasoning`, `general`) comes from."""
    licences: dict[str, str] = Field(default_factory=dict)
    """Each part's licence, as an SPDX name."""


class Params(StageModel):
    """Parameters that decide the mix."""

    seed: int
    reasoning_rows: int = Field(ge=0)
    """Most rows from `reasoning`; R1: 600,000."""
    general_rows: int = Field(ge=0)
    """Most rows from `general`; R1: 200,000."""
    quotas: Quotas = Quotas()
    choose: Literal["first", "spread"] = "first"
    """Which rows fill a quota: the first ones, or a seeded sample of all."""
    near_duplicates: float | None = Field(default=None, gt=0, le=1)
    """Similarity of 16-byte windows (Jaccard) from which a row is dropped for an earlier one of
    either part."""
    card: Card | None = None
    """Writes README.md beside the rows."""


class Run(StageModel):
    """Nothing to choose."""


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Take each part up to its quotas, then shuffle them together."""
    from r1pipe.data.duplicates import write_duplicates
    from r1pipe.data.shuffle import TURNS, rows_in_order, schema_with_turns
    from r1pipe.rows import schema_of, write_rows

    survey, choice = _choose(context, params, inputs)
    rows = choice.rows.tolist()
    if not rows:
        raise StageError(f"{context.name}: both parts are empty")
    random.Random(f"mix:{params.seed}").shuffle(rows)
    parts, out = {part: inputs.path(part) for part in PARTS}, context.output("rows")
    num_chars = survey.num_chars(choice.rows)
    has_turns = any(TURNS in schema_of(path).names for path in parts.values())
    columns = [*COLUMNS, TURNS] if has_turns else COLUMNS
    ordered = rows_in_order(parts, columns, survey.parts, rows, num_chars, out / "spill")
    write_rows(out, _watched(ordered, context), schema_with_turns(columns) if has_turns else None)
    _tell(context, params, survey, choice)
    if params.near_duplicates is not None:
        write_duplicates(out, survey, choice.duplicates.tolist())
    if params.card is not None:
        (out / "README.md").write_text(_card(params, params.card, survey, choice))


def _choose(context: Context, params: Params, inputs: Inputs) -> tuple[Survey, Choice]:
    """Read all rows once and choose among them by number."""
    from r1pipe.data.choosing import choose
    from r1pipe.data.near import NearDuplicates
    from r1pipe.data.survey import survey_parts

    limits = _limits(params)
    near = NearDuplicates() if params.near_duplicates is not None else None
    takes_first = near is None and params.choose == "first" and limits.only_parts()
    survey = survey_parts(
        {part: inputs.path(part) for part in PARTS},
        COLUMNS,
        _levels(inputs),
        near.add if near is not None else None,
        limits.parts if takes_first else {},
        context.stop_if_asked,
    )
    if params.quotas.levels and survey.labels["level"].values.keys() == {"None"}:
        raise StageError(
            f"{context.name}: params.quotas.levels needs rows with a level; give the problems that"
            " they are of as inputs.problems"
        )
    spread = f"mix-choice:{params.seed}" if params.choose == "spread" else None
    return survey, choose(survey, limits, near, params.near_duplicates or 1.0, spread)


def _limits(params: Params) -> Limits:
    from r1pipe.data.choosing import Limits

    quotas = params.quotas
    return Limits(
        parts={"reasoning": params.reasoning_rows, "general": params.general_rows},
        tasks=quotas.tasks,
        levels=quotas.levels,
        lengths=sorted((item.up_to_chars, item.max_rows) for item in quotas.lengths),
    )


def _levels(inputs: Inputs) -> dict[str, int]:
    """Return the level of each problem that was given."""
    from r1pipe.rows import read_rows

    return {
        row["id"]: row["level"]
        for folder in inputs.paths("problems").values()
        for row in read_rows(folder, columns=["id", "level"])
    }


def _watched(rows: Iterator[Row], context: Context) -> Iterator[Row]:
    """Pass rows on, show the first ones, and stop if that was asked for."""
    for count, row in enumerate(rows):
        if count < NUM_SAMPLES:
            context.sample(prompt=row["prompt"], completion=row["completion"], source=row["source"])
        if count % ROWS_PER_CHECK == 0:
            context.stop_if_asked()
        yield row


def _tell(context: Context, params: Params, survey: Survey, choice: Choice) -> None:
    """Note what is in the mix, and what is not."""
    quotas = _limits(params).parts
    for part, count in survey.part_of(choice.rows).items():
        short = quotas[part] - count
        context.note(**{f"{part}_rows": count, f"{part}_short_of_quota": short})
    context.note(
        tasks=survey.labels["task"].counts(choice.rows),
        languages=survey.labels["language"].counts(choice.rows),
        repeats=choice.repeats,
    )
    if params.near_duplicates is not None:
        context.note(near_duplicates=choice.near)
    if choice.over:
        context.note(over_quota=choice.over)


def _card(params: Params, card: Card, survey: Survey, choice: Choice) -> str:
    from r1pipe.data.card import data_card

    settings = params.model_dump(exclude={"card"}, exclude_defaults=True)
    return data_card(card.title, survey, choice, settings, card.sources, card.licences)


def look(params: Params, inputs: Inputs) -> Mapping[str, str]:
    """Say what the first rows are taken for."""
    from r1pipe.data.training_rows import own_rows_found

    return {part: own_rows_found(inputs.path(part), COLUMNS) for part in PARTS if part in inputs}


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: both parts up to their quotas."""
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
