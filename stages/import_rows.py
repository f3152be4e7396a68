"""Training rows from outside, of any shape that the field uses.

Paper: none; the rows of arXiv:2501.12948, section 2.3.3, were never published.

In: `source`, a data set from outside. Out: `rows`, r1pipe's own: prompt and completion, and
`messages` (JSON) where a row is a conversation of several turns or has a system message.

The shape is found by the names of the columns: prompt and completion, messages, ShareGPT, Alpaca,
a thought in a column of its own, OpenR1's generations with flags, r1pipe's own. Rows that are
empty, null or not text are counted by reason with their places.

Run it with `r1pipe stage import-rows`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from r1pipe.data.importing import ImportParams
from r1pipe.settings import FormatParam, Prompt, format_of
from r1pipe.stage import Context, Input, Inputs, StageModel

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, InfoMap
    from r1pipe.data.readings import Example
    from r1pipe.files import Record
    from r1pipe.records import Row

VERSION = 1
INPUTS = {"source": Input(("dataset", "rows"))}
OUTPUTS = {"rows": "rows"}


class Params(ImportParams):
    """Parameters that decide the rows."""

    generations: Literal["first-correct", "every-correct"] = "first-correct"
    """Of several generations with flags: the first that is complete and correct, or every one."""
    format: FormatParam = "chat"
    """The format of rows that do not say theirs."""
    prompt: Prompt = Prompt()
    """A system message for rows without one, and what follows every question."""
    task: str = "general"
    """The task of rows that do not say theirs, for quotas and reports."""
    language: str = "en"
    """The language of rows that do not say theirs (ISO 639-1)."""

    def meant_otherwise(self) -> Mapping[str, str]:
        """Return what `format` is here; in other kinds it is that of prompts and completions."""
        return {"format": "the format of rows that do not say theirs"}


class Run(StageModel):
    """Nothing to choose."""


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Read every row, leave out what is bad or a repeat, and write the rest in its order."""
    from r1pipe.data import importing
    from r1pipe.data.training_rows import Reading, checked_format
    from r1pipe.records import messages_to_json

    path, default = inputs.path("source"), format_of(params.format, params.prompt).text

    def to_row(record: Record, example: Example) -> Row:
        *before, last = example.messages
        prompt = importing.prompt_text(before)
        is_plain = importing.is_plain(before) and last.is_trained
        row = {
            "task": params.task,
            "language": params.language,
            "source": importing.place_of(path, record),
        } | {name: value for name, value in example.facts.items() if isinstance(value, str)}
        return (
            {"problem_id": importing.problem_id(row["task"], prompt)}
            | row
            | {
                "format": checked_format(path, record, example, default).text,
                "prompt": prompt,
                "completion": last.content,
                "messages": None if is_plain else messages_to_json(example.messages),
            }
        )

    reading = Reading(params.columns, params.shape, params.generations)
    makers: importing.Makers = {"rows": (importing.ROW_SCHEMA, to_row)}
    importing.write_imported(context, path, params, reading, makers)


def look(params: Params, inputs: Inputs) -> Mapping[str, str]:
    """Say what the first rows are taken for."""
    from r1pipe.data.training_rows import Reading, rows_found

    reading = Reading(params.columns, params.shape, params.generations)
    return {"source": rows_found(inputs.path("source"), reading)} if "source" in inputs else {}


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: how many rows, and how long."""
    from r1pipe.costs.recipes import imported_rows
    from r1pipe.costs.work import Cost, Range

    rows = imported_rows(inputs["source"], params.num_rows)
    return Cost({"rows": rows}, other_s=rows.num_rows * Range(1e-5, 1e-3))
