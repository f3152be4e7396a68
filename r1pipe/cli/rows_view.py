"""`show --row`: the whole lineage of one sample; `show --why-not` is in `row_reasons.py`.

Text that a model wrote is shown with its control characters written out, never acted on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from r1pipe.cli.printing import print_json, say
from r1pipe.lineage.facts import (
    Document,
    candidates_of,
    model_of,
    name_text,
    named,
    place_text,
    problem_of,
    replies_of,
    standing,
    verdict_of,
)
from r1pipe.lineage.reasons import why_not_json, why_not_text
from r1pipe.lineage.trace import MODEL, Place, Trace
from r1pipe.records import Row
from r1pipe.text import listed, table_lines, visible

if TYPE_CHECKING:
    from r1pipe.store.actions import ActionRecord as Record
    from r1pipe.store.store import Store

SAMPLING = ("temperature", "top_p", "seed", "num_tokens", "finish_reason", "format")
MAX_NAMES = 12
TEXTS = ("completion", "text", "chosen", "rejected")


def print_row(
    store: Store, record: Record, row: str | None, why_not: str | None, as_json: bool
) -> None:
    """Print one row's lineage, or why it is missing."""
    if as_json and row is not None:
        print_json(row_json(store, record, row))
    elif row is not None:
        say(row_text(store, record, row))
    elif as_json:
        print_json(why_not_json(store, record, str(why_not)))
    else:
        say(why_not_text(store, record, str(why_not)))


def row_json(store: Store, record: Record, row_id: str) -> Document:
    """Return one row's whole lineage as JSON values.

    Raises ArtifactError when neither the artifact nor what it was made from has such a row.
    """
    trace = Trace(store)
    asked = trace.find(record, row_id)
    place = asked if asked.is_problem else _origin(trace, asked)
    document = {"row": standing(place), "problem": problem_of(trace, place)}
    if place.is_problem:
        return document | {"candidates": candidates_of(trace, place)}
    taken = list(trace.follow(place))
    trained = [reader for _, reader, there in taken if there is None and MODEL in reader.outputs]
    return {
        **document,
        "sampled": {name: place.row[name] for name in SAMPLING if name in place.row},
        "model": model_of(trace, place),
        "texts": {name: place.row[name] for name in TEXTS if name in place.row},
        "verdict": verdict_of(trace, place),
        "judge": replies_of(trace, [place.record, *(r for _, r, _ in taken)], place.row.get("id")),
        "filters": json.loads(place.row.get("filters", "{}")),
        "kept": place.row.get("kept"),
        "stands_in": [standing(each) for each in trace.standing(place.record, place.row)]
        + [standing(there) for _, _, there in taken if there is not None],
        "not_in": [named(r) for _, r, there in taken if there is None and MODEL not in r.outputs],
        "trained": [
            named(model) | {"made_from_it": [named(each) for each in trace.made_from(model)]}
            for model in trained
        ],
    }


def row_text(store: Store, record: Record, row_id: str) -> str:
    """Return one row's whole lineage as text."""
    found = row_json(store, record, row_id)
    stands = found.get("stands_in", [found["row"]])
    sections = [
        [place_text(found["row"])],
        ["problem", *_fields(found["problem"])],
        ["sampled by", *_fields({**found.get("model", {}), **found.get("sampled", {})})],
        *([name, *_block(text)] for name, text in found.get("texts", {}).items()),
        ["verdict", *_fields(found.get("verdict", {}))],
        ["judge", *(line for reply in found.get("judge", []) for line in _fields(reply))],
        ["filters", *_filter_lines(found)],
        ["found in", *(f"  {place_text(each)}" for each in stands)],
        ["passed over by", *(f"  {name_text(each)}" for each in found.get("not_in", []))],
        ["models trained on it", *_model_lines(found.get("trained", []))],
        ["candidates", *_candidate_lines(found.get("candidates", []))],
    ]
    return "\n\n".join("\n".join(section) for section in sections[:1] + _filled(sections[1:]))


def _filled(sections: Sequence[list[str]]) -> list[list[str]]:
    return [section for section in sections if len(section) > 1]


def _origin(trace: Trace, place: Place) -> Place:
    """Return the candidate that a training row without an id came from, else the row itself."""
    if "filters" in place.row:
        return place
    for each in trace.upstream(place.record):
        for found in trace.standing(each, place.row):
            if "filters" in found.row:
                return found
    return place


def _fields(values: Mapping[str, object]) -> list[str]:
    """Return short values as a table, and longer ones below their names."""
    short, long = [], []
    for name, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if "\n" in text or len(text) > 80:
            long += [f"  {name}", *(f"  {line}" for line in _block(text))]
        else:
            short.append((name, visible(text)))
    return [f"  {line}" for line in table_lines(short)] + long


def _block(text: str) -> list[str]:
    return [f"  | {line}" for line in visible(text, keep_lines=True).split("\n")]


def _filter_lines(found: Document) -> list[str]:
    decisions = found.get("filters", {})
    rows = [(name, "passed" if passed else "FAILED") for name, passed in decisions.items()]
    lines = [f"  {line}" for line in table_lines(rows)]
    return [*lines, f"  kept: {'yes' if found['kept'] else 'no'}"] if lines else []


def _model_lines(trained: Sequence[Row]) -> list[str]:
    lines = []
    for model in trained:
        names = [name_text(each) for each in model["made_from_it"]]
        then = f"; made from it: {listed(names, MAX_NAMES)}" if names else ""
        lines.append(f"  {name_text(model)}{then}")
    return lines


def _candidate_lines(candidates: Sequence[Row]) -> list[str]:
    return [
        f"  {name_text(each)}: {each['sampled']} sampled, {each['kept']} kept:"
        f" {visible(', '.join(each['ids']))}"
        for each in candidates
    ]
