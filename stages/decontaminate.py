"""Take out what overlaps the evaluation sets, and certify it.

Paper: arXiv:2402.03300 (DeepSeekMath), section 2.1: 10 words in a row, or the whole of a text of
3 to 9 words; R1 uses the same filter (arXiv:2501.12948v2, appendix D.1).

In: `rows`, `problems` or both, and `held_out`, the evaluation sets by name. Out: `rows` and
`problems` without what overlaps (what was not given is an empty set), and `certificate`:
certificate.json (counts, settings, the recall measured with planted canaries) and every matched
pair as a row.

Departures: two variants beside the paper's rule, number-masked and re-wrapped
(`r1pipe/data/overlap.py`).

Run it with `r1pipe stage decontaminate --manifest manifests/r1-clean.yaml`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from r1pipe.errors import StageError
from r1pipe.records import Row
from r1pipe.stage import Context, Input, Inputs, StageModel

if TYPE_CHECKING:
    from r1pipe.costs.work import Cost, InfoMap

VERSION = 2
INPUTS = {
    "rows": Input("rows", optional=True),
    "problems": Input("problems", optional=True),
    "held_out": Input(("problems", "rows"), many=True),
}
OUTPUTS = {"rows": "rows", "problems": "problems", "certificate": "report"}
DATA = ("rows", "problems")
MAX_PAIRS = 16
"""Held-out texts that are named per text; a template may overlap thousands."""
LOG_EVERY = 10_000


class Params(StageModel):
    """Parameters that decide what is taken out."""

    ngram: int = Field(default=10, ge=3)
    """Words in a row that two texts may not share."""
    variants: tuple[Literal["plain", "masked", "rewrapped"], ...] = ("plain", "masked", "rewrapped")
    """`plain` is the paper's rule; leave out `masked` for data made from templates, in which all
    problems are alike but for their numbers."""
    columns: tuple[str, ...] = ("prompt",)
    """Columns of `rows` and `problems` that are looked through."""
    held_out_column: str = "prompt"
    """Column of the evaluation sets."""
    max_removed_frac: float = Field(default=0.2, ge=0, le=1)
    """Share of a set that may be taken out; more than that stops the stage."""
    num_canaries: int = Field(default=200, ge=1)
    """Held-out texts that are planted in each disguise to measure the recall."""
    seed: int = 0
    """Of the canaries."""


class Run(StageModel):
    """Nothing to choose."""


def run(context: Context, params: Params, run: Run, inputs: Inputs) -> None:
    """Write every overlap as a pair, then what has none, then the certificate."""
    from r1pipe.rows import read_rows, schema_of, write_rows

    given = [name for name in DATA if name in inputs]
    if not given:
        raise StageError(f"{context.name}: give inputs.rows, inputs.problems or both")
    search = _Search(context, params, _read_held_out(context, params, inputs))
    pairs = (pair for name in given for pair in search.pairs(name, inputs.path(name)))
    write_rows(context.output("certificate"), pairs)
    for name in DATA:
        search.check_share(name)
        rows = enumerate(read_rows(inputs.path(name)) if name in given else ())
        clean = (row for position, row in rows if position not in search.removed[name])
        schema = schema_of(inputs.path(name)) if name in given else None
        has_turns = schema is not None and "messages" in schema.names  # null in a whole shard
        write_rows(context.output(name), clean, schema if has_turns else None)
    _certify(context, params, search)


@dataclass(frozen=True)
class _HeldOut:
    """One evaluation text."""

    name: str
    id: str
    text: str


def _read_held_out(context: Context, params: Params, inputs: Inputs) -> list[_HeldOut]:
    from r1pipe.rows import read_rows

    return [
        _HeldOut(name, str(row.get("id", position)), text)
        for name, folder in sorted(inputs.paths("held_out").items())
        for position, row in enumerate(read_rows(folder))
        for text in _texts(context, f"held_out.{name}", row, (params.held_out_column,))
    ]


def _texts(context: Context, name: str, row: Row, columns: Sequence[str]) -> Iterator[str]:
    for column in columns:
        if column not in row:
            field = "held_out_column" if name.startswith("held_out") else "columns"
            raise StageError(
                f"{context.name}: {name} has no column '{column}' (it has {', '.join(row)});"
                f" set params.{field}"
            )
        yield row[column]


class _Search:
    """Looks for the held-out texts, and counts what it finds."""

    def __init__(self, context: Context, params: Params, held_out: Sequence[_HeldOut]) -> None:
        from r1pipe.data.overlap import OverlapIndex

        self.context, self.params, self.held_out = context, params, held_out
        self.index = OverlapIndex([each.text for each in held_out], params.ngram, params.variants)
        self.checked = dict.fromkeys(DATA, 0)
        self.removed: dict[str, set[int]] = {name: set() for name in DATA}
        self.by_variant: Counter[str] = Counter()
        self.by_set: Counter[str] = Counter()

    def pairs(self, name: str, folder: Path) -> Iterator[Row]:
        """Yield what each text of one set shares with which held-out ones."""
        from r1pipe.rows import read_rows

        for position, row in enumerate(read_rows(folder)):
            self.checked[name] += 1
            if self.checked[name] % LOG_EVERY == 0:
                self.context.log(sum(self.checked.values()) // LOG_EVERY, checked=float(position))
                self.context.stop_if_asked()
            texts = _texts(self.context, name, row, self.params.columns)
            for column, text in zip(self.params.columns, texts, strict=True):
                for match in self.index.matches(text)[:MAX_PAIRS]:
                    self.removed[name].add(position)
                    other = self.held_out[match.held_out_index]
                    self.by_variant[match.variant] += 1
                    self.by_set[other.name] += 1
                    yield {
                        "data": name,
                        "row_id": str(row.get("id", position)),
                        "problem_id": str(row.get("problem_id", row.get("id", ""))),
                        "position": position,
                        "column": column,
                        "variant": match.variant,
                        "held_out_set": other.name,
                        "held_out_id": other.id,
                        "shared": match.shared,
                        "text": text,
                        "held_out_text": other.text,
                    }

    def check_share(self, name: str) -> None:
        """Raise StageError when more of a set would go than is plausible."""
        removed, limit = len(self.removed[name]), self.params.max_removed_frac
        if removed > limit * self.checked[name]:
            counts = ", ".join(f"{variant} {n}" for variant, n in self.by_variant.items())
            raise StageError(
                f"{self.context.name}: {removed} of {self.checked[name]} {name} overlap the"
                f" evaluation sets (pairs: {counts}), more than params.max_removed_frac {limit};"
                " for data made from templates leave 'masked' out of params.variants"
            )


def _certify(context: Context, params: Params, search: _Search) -> None:
    """Measure the recall with canaries, and write down what was done."""
    from r1pipe.data.canaries import measured

    texts = [each.text for each in search.held_out]
    facts = {
        "checked": search.checked,
        "removed": {name: len(positions) for name, positions in search.removed.items()},
        "pairs_by_variant": dict(search.by_variant),
        "pairs_by_set": dict(search.by_set),
        "held_out": dict(Counter(each.name for each in search.held_out)),
        "held_out_too_short": search.index.num_too_short,
        "canaries": measured(search.index, texts, params.num_canaries, params.seed),
    }
    ids = {name: context.input_ids.get(name) for name in INPUTS}
    document = {**facts, "inputs": ids, "params": params.model_dump(mode="json")}
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False)
    (context.output("certificate") / "certificate.json").write_text(text + "\n", encoding="utf-8")
    context.note(**facts)


def look(params: Params, inputs: Inputs) -> Mapping[str, str]:
    """Say what the first rows are taken for."""
    from r1pipe.data.training_rows import own_rows_found

    if "rows" not in inputs:
        return {}
    return {"rows": own_rows_found(inputs.path("rows"), params.columns)}


def cost(params: Params, run: Run, inputs: InfoMap) -> Cost:
    """Return the cost for `plan`: every text is looked through once."""
    from r1pipe.costs.work import NOTHING, Cost, Info, ProblemsInfo, Range, RowsInfo

    rows = inputs.get("rows", RowsInfo(NOTHING, NOTHING, NOTHING))
    problems = inputs.get("problems", ProblemsInfo(NOTHING, NOTHING, None))
    count = rows.num_rows + problems.num_problems
    outputs = {"rows": rows, "problems": problems, "certificate": Info()}
    return Cost(outputs, other_s=count * Range(2e-5, 1e-3))
