"""Reasons why an artifact lacks a row: the decision against it, and the stage that took it.

Text that a model wrote is shown with its control characters written out, never acted on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from r1pipe.lineage.facts import (
    Document,
    candidates_of,
    named,
    place_text,
    standing,
    verdict_of,
)
from r1pipe.lineage.trace import Place, Trace, find_again, find_rows, label, row_at
from r1pipe.records import Row
from r1pipe.text import visible

if TYPE_CHECKING:
    from r1pipe.store.actions import ActionRecord as Record
    from r1pipe.store.store import Store

SELECTION = {
    "duplicate": "it repeats a row before it",
    "quota": "a quota of its task, level or length was full",
    "target": "target_rows were kept before it",
}


def why_not_json(store: Store, record: Record, row_id: str) -> Document:
    """Return whether an artifact holds a row, else the reason, as JSON values."""
    trace = Trace(store)
    place = trace.find(record, row_id)
    document = {"row": standing(place), "asked": named(record)}
    if place.is_problem:
        reasons = _why_no_candidate(trace, place, record)
        return document | {"is_in": place.record.key == record.key, "reasons": reasons}
    reached = _reached(trace, place)
    if (there := reached.get(record.key)) is not None and _is_taken(there):
        return document | {"is_in": True, "stands_in": standing(there), "reasons": []}
    return document | {"is_in": False, "reasons": list(_reasons(trace, place, record, reached))}


def why_not_text(store: Store, record: Record, row_id: str) -> str:
    """Return why an artifact lacks a row, as text."""
    found = why_not_json(store, record, row_id)
    if found["is_in"]:
        place = found["stands_in"] if "stands_in" in found else found["row"]
        where = place_text(place)
        return f"{visible(row_id)} is in {label(record)}: {where}"
    lines = [f"{visible(row_id)} is not in the rows of {label(record)}:"]
    return "\n".join([*lines, *(f"  {visible(reason)}" for reason in found["reasons"])])


def _reached(trace: Trace, place: Place) -> dict[str, Place | None]:
    """Return {record key: the row's place there, or None}, as far as the row was followed."""
    own = trace.standing(place.record, place.row)
    taken = [each for each in own if _is_taken(each)]
    reached: dict[str, Place | None] = {place.record.key: taken[0] if taken else None}
    for _, reader, there in trace.follow(place):
        reached[reader.key] = there
    return reached


def _is_taken(place: Place) -> bool:
    """True where a row is one to be trained on, not only kept on record."""
    return place.output not in ("candidates", "flips", "certificate")


def _reasons(
    trace: Trace, place: Place, record: Record, reached: Mapping[str, Place | None]
) -> Iterator[str]:
    if reached[place.record.key] is None:
        yield from _why_dropped(trace, place)
    elif record.key in reached:
        yield from _why_passed_over(trace, place, record)
    else:
        lost = [r for r in trace.upstream(record) if r.key in reached and reached[r.key] is None]
        for each in lost:
            yield f"{label(each)} did not take it:"
            yield from _why_passed_over(trace, place, each)
        if not lost:
            yield f"nothing that {label(record)} was made from has taken it"


def _why_dropped(trace: Trace, place: Place) -> Iterator[str]:
    """Name the decision that kept a candidate out of its artifact's rows."""
    row, params = place.row, place.record.preimage["params"]
    failed = [name for name, passed in json.loads(row.get("filters", "{}")).items() if not passed]
    for name in failed:
        if name == "verdict":
            said = verdict_of(trace, place)
            answers = f"extracted {said['extracted']!r}, gold {said['gold']!r}"
            yield f"verdict: {said['verdict']} ({answers})"
        elif name in SELECTION:
            why = _repeated(trace, place) if name == "duplicate" else SELECTION[name]
            yield f"every filter passed, but {why} (decision '{name}')"
        else:
            keep = json.dumps(params.get("keep", "the defaults"))
            yield f"filter '{name}' failed (params.keep: {keep})"
    if not failed:
        yield f"{label(place.record)} does not say: no decision of '{row.get('id')}' failed"


def _repeated(trace: Trace, place: Place) -> str:
    """Name the kept candidate whose words one repeats."""
    folder = trace.folder(place.record, place.output)
    for _, other in find_rows(folder, "prompt", place.row["prompt"]):
        if other["kept"] and other["completion"] == place.row["completion"]:
            return f"it is an exact repeat of {other['id']}, which is kept"
    return SELECTION["duplicate"]


def _why_passed_over(trace: Trace, place: Place, record: Record) -> Iterator[str]:
    """Give the known reason why a stage did not take a row that it read."""
    if (known := _overlap(trace, place, record) or _twin(trace, place, record)) is not None:
        yield known
        return
    facts, ids = record.facts, set(place.record.outputs.values())
    parts = [name for name, link in record.links() if link["id"] in ids]
    full = [part for part in parts if facts.get(f"{part}_short_of_quota") == 0]
    for part in full:
        yield f"the quota of '{part}' was full ({facts.get(f'{part}_rows')} rows)"
    if over := facts.get("over_quota"):
        yield f"over quota: {json.dumps(over)}"
    if not full and not over:
        yield f"{label(record)} does not say; its facts: {json.dumps(dict(facts))}"


def _overlap(trace: Trace, place: Place, record: Record) -> str | None:
    """Name the evaluation text that a row overlaps, where a certificate has the pair."""
    for output in trace.row_outputs(record):
        folder = trace.folder(record, output)
        for column in ("row_id", "problem_id"):
            key = place.row.get("id" if column == "row_id" else column)
            for _, pair in find_rows(folder, column, str(key)):
                if "shared" in pair:
                    return (
                        f"it overlaps {pair['held_out_set']} {pair['held_out_id']}"
                        f" ({pair['variant']}): {pair['shared']}"
                    )
    return None


def _twin(trace: Trace, place: Place, record: Record) -> str | None:
    """Name the row of a mix's parts that one was left out for: it is equal, or near."""
    if "repeats" not in record.facts:
        return None  # no mix
    parts = {part: trace.folder(maker, output) for part, maker, output in trace.above(record)}
    for part, folder in parts.items():
        if (found := find_again(folder, place.row)) is None:
            continue
        for position, row in find_rows(folder, "prompt", place.row["prompt"]):
            if position < found[0] and row["completion"] == place.row["completion"]:
                return f"it is an exact repeat of {_row_of(part, position, row)}"
        from r1pipe.data.duplicates import duplicate_of

        original = duplicate_of(trace.folder(record, "rows"), part, found[0])
        kept = row_at(parts[original[0]], original[1]) if original is not None else None
        if original is not None and kept is not None:
            return f"it is a near-duplicate of {_row_of(*original, kept)}"
    return None


def _row_of(part: str, position: int, row: Row) -> str:
    return f"{row.get('id', row.get('problem_id'))} (row {position} of '{part}')"


def _why_no_candidate(trace: Trace, place: Place, record: Record) -> list[str]:
    """Describe a problem's outcome in an artifact made from it."""
    own = [each for each in candidates_of(trace, place) if each["artifact"] == record.artifact_id]
    if any(each["sampled"] for each in own):
        return [
            f"that is a problem; {each['kept']} of its {each['sampled']} completions were kept: ask"
            f" for one of {', '.join(each['ids'])}"
            for each in own
        ]
    key = place.row["id"]
    aside = [each for each in record.facts.get("quarantined_problems", ()) if key in each]
    if aside:
        return [f"its gold answer does not verify against itself: {each}" for each in aside]
    target = record.preimage["params"].get("target_rows")
    end = f"; sampling ended when {target} rows were kept" if target else ""
    return [f"no completion of problem {key} was sampled{end}"]
