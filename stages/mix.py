"""The 800k mix of reasoning rows and general rows, or any parts by share, in a seeded order.

Paper: arXiv:2501.12948, section 2.3.3 (600k + 200k); v2, Table 5 (what is in it). Shares:
arXiv:2402.03300, section 4.1.4 (a reward model trained on, with 10 % of the rows from before).

In: `reasoning` and `general` rows, or `parts`, rows by name that all have the same columns;
optionally the `problems` that say a row's level. Out: `rows`, with a data card (README.md) if one
is asked for, and beside them which row stays for each near-duplicate (near-duplicates.json) if
those are taken out. Equal rows of one part are one row.

Departures: how the paper removes duplicates and balances its tasks was never published; here both
are parameters, and off unless given.

Run it with `r1pipe stage sft-data`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from r1pipe.errors import StageError
from r1pipe.records import Row
from r1pipe.stage import Context, Input, Inputs, StageModel

if TYPE_CHECKING:
    import pyarrow as pa

    from r1pipe.costs.work import Cost, InfoMap
    from r1pipe.data.choosing import Choice, Limits
    from r1pipe.data.survey import Survey

VERSION = 1
INPUTS = {
    "reasoning": Input("rows", optional=True),
    "general": Input("rows", optional=True),
    "parts": Input("rows", optional=True, many=True),
    "problems": Input("problems", optional=True, many=True),
}
OUTPUTS = {"rows": "rows"}
PARTS = ("reasoning", "general")
COLUMNS = ["problem_id", "task", "language", "format", "prompt", "completion"]
SHOWN = ("prompt", "completion", "chosen", "rejected", "label", "source")
BOTH = "reasoning and inputs.general"
BOTH_EMPTY = "both parts are empty"
NUM_SAMPLES = 8
ROWS_PER_CHECK = 10_000


class LengthQuota(StageModel):
    """A bound on the rows of one range of lengths."""

    up_to_chars: int = Field(gt=0)
    """The range ends here (included) and begins after the next smaller one; of the completion."""
    max_rows: int = Field(ge=0)
    """Most rows in it."""


class Quotas(StageModel):
    """Most rows by task, level and length, over all parts; what is not named is not bounded."""

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
    """Where each part (`reasoning`, `general`, or those in `shares`) comes from."""
    licences: dict[str, str] = Field(default_factory=dict)
    """Each part's licence, as an SPDX name."""


class Params(StageModel):
    """Parameters that decide the mix."""

    seed: int
    reasoning_rows: int | None = Field(default=None, ge=0)
    """Most rows from `reasoning`; R1: 600,000."""
    general_rows: int | None = Field(default=None, ge=0)
    """Most rows from `general`; R1: 200,000."""
    shares: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Part -> its share of the rows, for the input `parts` in place of `reasoning` and `general`;
    DeepSeekMath's replay: new 0.9, old 0.1. The part that is shortest for its share decides how
    many rows there are."""
    num_rows: int | None = Field(default=None, gt=0)
    """Most rows of a mix by shares; default: as many as the shares allow."""
    quotas: Quotas = Quotas()
    choose: Literal["first", "spread"] = "first"
    """Which rows fill a quota: the first ones, or a seeded sample of all."""
    near_duplicates: float | None = Field(default=None, gt=0, le=1)
    """Similarity of 16-byte windows (Jaccard) from which a row is dropped for an earlier one of
    either part."""
    card: Card | None = None
    """Writes README.md beside the rows."""

    @model_validator(mode="after")
    def _says_how_much_of_what(self) -> Params:
        counts = (self.reasoning_rows, self.general_rows)
        if self.shares and counts != (None, None):
            raise ValueError("give shares, or reasoning_rows and general_rows, not both")
        if not self.shares and (None in counts or self.num_rows is not None):
            raise ValueError("give reasoning_rows and general_rows, or the shares of all parts")
        return self

    def named_labels(self) -> Mapping[str, Sequence[str]]:
        """Return the labels of `parts` that have a share."""
        return {"parts": tuple(self.shares)} if self.shares else {}


class Run(StageModel):
    """Nothing to choose."""


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Take each part up to its quotas, then shuffle them together."""
    from r1pipe.data.duplicates import write_duplicates
    from r1pipe.data.shuffle import rows_in_order
    from r1pipe.rows import write_rows

    parts = _parts(context, params, inputs)
    columns, schema, written = _columns(params, parts)
    survey, choice, limits = _choose(context, params, inputs, parts, columns)
    rows = choice.rows.tolist()
    if not rows:
        raise StageError(f"{context.name}: {'no row is left' if params.shares else BOTH_EMPTY}")
    random.Random(f"mix:{params.seed}").shuffle(rows)
    out, num_chars = context.output("rows"), survey.num_chars(choice.rows)
    sizes, spill = survey.parts, out / "spill"
    ordered = rows_in_order(parts, columns, sizes, rows, num_chars, spill, schema)
    write_rows(out, _watched(ordered, context), written)
    _tell(context, params, survey, choice, limits)
    if params.near_duplicates is not None:
        write_duplicates(out, survey, choice.duplicates.tolist())
    if params.card is not None:
        (out / "README.md").write_text(_card(params, params.card, survey, choice))


def _parts(context: Context, params: Params, inputs: Inputs) -> Mapping[str, Path]:
    """Return the folders of the parts; raises StageError if the inputs are not those of params."""
    given = inputs.paths("parts")
    names = tuple(sorted(params.shares)) or PARTS  # their order in the manifest is in no key
    there = tuple(given) if params.shares else tuple(name for name in PARTS if name in inputs)
    if set(there) != set(names):
        raise StageError(
            f"{context.name}: the rows of {', '.join(names)} are mixed, but the inputs are"
            f" {', '.join(there) or 'not there'}; give inputs."
            + ("parts with exactly the names in params.shares" if params.shares else BOTH)
        )
    return {name: given[name] if params.shares else inputs.path(name) for name in names}


def _columns(
    params: Params, parts: Mapping[str, Path]
) -> tuple[list[str], pa.Schema | None, pa.Schema | None]:
    """Return the columns that are mixed, their types if they must be said, and those written."""
    from r1pipe.data.mix_parts import common_schema
    from r1pipe.data.shuffle import TURNS, schema_with_source, schema_with_turns
    from r1pipe.rows import schema_of

    if params.shares:
        schema = common_schema(parts)
        return schema.names, schema, schema_with_source(schema)
    if any(TURNS in schema_of(path).names for path in parts.values()):
        columns = [*COLUMNS, TURNS]
        return columns, None, schema_with_turns(columns)
    return COLUMNS, None, None


def _choose(
    context: Context,
    params: Params,
    inputs: Inputs,
    parts: Mapping[str, Path],
    columns: Sequence[str],
) -> tuple[Survey, Choice, Limits]:
    """Read all rows once and choose among them by number."""
    from r1pipe.data.choosing import choose
    from r1pipe.data.mix_parts import counts_of_shares, distinct_rows
    from r1pipe.data.near import NearDuplicates
    from r1pipe.data.survey import survey_parts

    limits = _limits(params)
    near = NearDuplicates() if params.near_duplicates is not None else None
    takes_first = near is None and params.choose == "first" and limits.only_parts()
    survey = survey_parts(
        parts,
        columns if params.shares else COLUMNS,
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
    if params.shares:
        counts = counts_of_shares(distinct_rows(survey), params.shares, params.num_rows)
        limits = replace(limits, parts=counts)
    spread = f"mix-choice:{params.seed}" if params.choose == "spread" else None
    choice = choose(survey, limits, near, params.near_duplicates or 1.0, spread)
    return survey, choice, limits


def _limits(params: Params) -> Limits:
    from r1pipe.data.choosing import Limits

    quotas = params.quotas
    counts = {"reasoning": params.reasoning_rows, "general": params.general_rows}
    return Limits(
        parts={part: count for part, count in counts.items() if count is not None},
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
            context.sample(**{name: row[name] for name in SHOWN if name in row})
        if count % ROWS_PER_CHECK == 0:
            context.stop_if_asked()
        yield row


def _tell(context: Context, params: Params, survey: Survey, choice: Choice, limits: Limits) -> None:
    """Note what is in the mix, and what is not."""
    for part, count in survey.part_of(choice.rows).items():
        short = limits.parts[part] - count
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
    """Return the cost for `plan`: all parts up to their quotas."""
    from r1pipe.costs.recipes import mixed_rows
    from r1pipe.costs.work import Cost, Range

    quotas = {"reasoning": params.reasoning_rows, "general": params.general_rows}
    infos = inputs["parts"] if params.shares else {part: inputs[part] for part in PARTS}
    parts = [
        info if (most := quotas.get(part)) is None
        else replace(info, num_rows=info.num_rows.at_most(most))
        for part, info in infos.items()
    ]  # fmt: skip
    rows = mixed_rows(parts)
    if params.num_rows is not None:
        rows = replace(rows, num_rows=rows.num_rows.at_most(params.num_rows))
    if params.shares:  # the shortest part may leave little of the others
        rows = replace(rows, num_rows=Range(0.1 * rows.num_rows.low, rows.num_rows.high))
    return Cost({"rows": rows}, other_s=rows.num_rows * Range(1e-6, 1e-4))
