"""Preferences from outside: pairs of answers, or answers with a rating.

Paper: none; the preference data of arXiv:2501.12948v2, section 3.1, were never published.

In: `source`, a data set from outside. Out: `rows` as `preferences` writes them: prompt, chosen and
rejected, or prompt, completion and is_safe; and `messages` (JSON), all that comes before the
answer, where that is more than one user's text.

Pairs have chosen and rejected, as text or messages, and a prompt of their own or in the messages.
Ratings are true or false (TRL's KTO, LLaMA-Factory), or a score of a column that `columns` names.

Run it with `r1pipe stage import-preferences`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from r1pipe.data.importing import ImportParams
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

    good_from: float | None = None
    """The least score that counts as good; without it ratings are true, false or 0 to 1."""


class Run(StageModel):
    """Nothing to choose."""


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Read every row, leave out what is bad or a repeat, and write the rest in its order."""
    from r1pipe.data import importing
    from r1pipe.data.training_rows import Reading

    path = inputs.path("source")

    def pair(record: Record, example: Example) -> Row:
        answers = {"chosen": example.messages[-1].content, "rejected": example.rejected}
        return importing.asked(path, record, example) | answers

    def labelled(record: Record, example: Example) -> Row:
        label = float(example.label or 0.0)
        is_safe = label if params.good_from is None else float(label >= params.good_from)
        rated = {"completion": example.messages[-1].content, "is_safe": is_safe}
        return importing.asked(path, record, example) | rated

    makers: importing.Makers = {
        "pairs": (importing.PAIR_SCHEMA, pair),
        "labels": (importing.LABEL_SCHEMA, labelled),
    }
    reading = Reading(params.columns, params.shape, check=_check(params))
    importing.write_imported(context, path, params, reading, makers)


def _check(params: Params) -> Callable[[Example], None]:
    """Return what refuses a rating that is none without `good_from`."""
    from r1pipe.data.messages import BadRow

    def check(example: Example) -> None:
        label = example.label
        if label is not None and params.good_from is None and not 0 <= label <= 1:
            raise BadRow("label is a number outside 0 to 1; set params.good_from")

    return check


def look(params: Params, inputs: Inputs) -> Mapping[str, str]:
    """Say what the first rows are taken for."""
    from r1pipe.data.training_rows import Reading, rows_found

    reading = Reading(params.columns, params.shape, check=_check(params))
    if "source" not in inputs:
        return {}
    return {"source": rows_found(inputs.path("source"), reading, "pairs", "labels")}


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: how many rows, and how long."""
    from r1pipe.costs.recipes import imported_rows
    from r1pipe.costs.work import Cost, Range

    rows = imported_rows(inputs["source"], params.num_rows)
    return Cost({"rows": rows}, other_s=rows.num_rows * Range(1e-5, 1e-3))
