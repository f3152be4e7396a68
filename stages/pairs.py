"""Preferences from sampled completions: right against wrong of the same problem, or labelled texts.

Paper: arXiv:2402.03300, section 5.2.1 (DPO's data: pairs of a right and a wrong completion, sampled
from the SFT model) and section 4.1.4 (iterative GRPO trains its reward model on what the policy
samples).

In: `candidates` of rejection-sample, cold-start-data, reverify or judge; or labelled rows
(import-preferences). Out: `rows`: prompt, chosen and rejected, or prompt, completion and `label`
(1 right, 0 wrong).

Departures: how the paper pairs them was never published. Here a problem gives at most
`max_per_problem` different pairs; repeats, completions that were cut at the token limit and those
whose verdict says nothing are left out and counted.

Run it with `r1pipe stage pairs --manifest manifests/methods/dpo.yaml`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from r1pipe.errors import StageError
from r1pipe.records import Row
from r1pipe.stage import Context, Input, Inputs, StageModel

if TYPE_CHECKING:
    from r1pipe.candidates.pairing import SortedRows
    from r1pipe.costs.work import Cost, InfoMap

VERSION = 1
INPUTS = {"candidates": Input("rows")}
OUTPUTS = {"rows": "rows"}
COLUMNS = ("prompt", "completion")
DECIDES = ("verdict", "label", "is_safe")
"""Columns that tell right from wrong, the first that is there."""
ADVICE = "give candidates, or labelled rows of a stage of kind import-preferences"


class Params(StageModel):
    """Parameters that decide the rows."""

    seed: int
    objective: Literal["pairwise", "pointwise"] = "pairwise"
    """`pairwise`: prompt, chosen and rejected, for `dpo` and reward models; `pointwise`: prompt,
    completion and label, for reward models."""
    max_per_problem: int = Field(gt=0)
    """Most rows of one problem, drawn by the seed."""
    right_if: Literal["correct", "kept"] = "correct"
    """What may be chosen: what the verifier found correct, or of this what every filter kept."""


class Run(StageModel):
    """Nothing to choose."""


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Sort the completions of every problem, choose among them, and write the rows."""
    from r1pipe.candidates.pairing import sorted_out
    from r1pipe.rows import check_columns, read_rows, schema_of, with_samples, write_rows

    folder = inputs.path("candidates")
    check_columns(folder, COLUMNS, ADVICE)
    names = schema_of(folder).names
    if not any(name in names for name in DECIDES):
        raise StageError(
            f"{folder}: its rows have none of the columns {', '.join(DECIDES)}, so nothing says"
            f" which completions are right; {ADVICE}"
        )
    found = sorted_out(read_rows(folder), params.right_if)
    rows = _chosen(read_rows(folder), found, params)
    num_rows = write_rows(context.output("rows"), with_samples(context, rows))
    context.note(num_rows=num_rows, **found.facts())
    if not num_rows:
        raise StageError(
            f"{context.name}: no problem has both a right and a wrong completion"
            f" ({found.facts()}); sample more of them for each, or other problems"
        )


def _chosen(rows: Iterator[Row], found: SortedRows, params: Params) -> Iterator[Row]:
    from r1pipe.candidates.pairing import label_rows, labels_of, pair_rows, pairs_of

    seeded = [(f"pairs:{params.seed}:{name}", each) for name, each in found.problems.items()]
    limit = params.max_per_problem
    if params.objective == "pairwise":
        return pair_rows(rows, [p for seed, each in seeded for p in pairs_of(each, limit, seed)])
    labels = [labels_of(each, limit, seed) for seed, each in seeded]
    return label_rows(rows, {n: label for each in labels for n, label in each.items()})


def look(params: Params, inputs: Inputs) -> Mapping[str, str]:
    """Say what the first rows are taken for."""
    from r1pipe.data.training_rows import own_rows_found

    if "candidates" not in inputs:
        return {}
    return {"candidates": own_rows_found(inputs.path("candidates"), COLUMNS, "import-preferences")}


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: how many rows, and how long."""
    from r1pipe.costs.preferences import paired_rows
    from r1pipe.costs.work import Cost, Range

    candidates = inputs["candidates"]
    rows = paired_rows(candidates, params.max_per_problem, params.objective == "pairwise")
    return Cost({"rows": rows}, other_s=candidates.num_rows * Range(5e-6, 2e-4))
