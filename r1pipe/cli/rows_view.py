"""`show --row` and `show --why-not`: one sample's whole way, or why an artifact is without it.

Text that a model wrote is shown with its control characters written out, never acted on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from r1pipe.cli.options import print_json
from r1pipe.cli.row_trace import MODEL, Place, Trace, find_rows, label
from r1pipe.cli.views import link_text
from r1pipe.text import short_id, table_lines, visible

if TYPE_CHECKING:
    from r1pipe.store import Store
    from r1pipe.store.actions import ActionRecord as Record

SAMPLING = ("temperature", "top_p", "seed", "num_tokens", "finish_reason", "format")
PROBLEM = ("id", "task", "language", "level", "checker", "prompt", "gold", "meta", "solution")
LIMITS = ("max_tokens", "samples_per_problem")
SELECTION = {
    "duplicate": "it repeats a row before it",
    "quota": "a quota of its task, level or length was full",
    "target": "target_rows were kept before it",
}
REPLY = ("vote", "verdict", "fault", "judge_id", "question", "reply")
MAX_NAMES = 12
TEXTS = ("completion", "text", "chosen", "rejected")
Document = dict[str, Any]


def print_row(
    store: Store, record: Record, row: str | None, why_not: str | None, as_json: bool
) -> None:
    """Print what was asked of one row."""
    if as_json and row is not None:
        print_json(row_json(store, record, row))
    elif row is not None:
        print(row_text(store, record, row))
    elif as_json:
        print_json(why_not_json(store, record, str(why_not)))
    else:
        print(why_not_text(store, record, str(why_not)))


def row_json(store: Store, record: Record, row_id: str) -> Document:
    """Return one row's whole way as JSON values.

    Raises ArtifactError when neither the artifact nor what it was made from has such a row.
    """
    trace = Trace(store)
    asked = trace.find(record, row_id)
    place = asked if asked.is_problem else _origin(trace, asked)
    document = {"row": _standing(place), "problem": _problem_of(trace, place)}
    if place.is_problem:
        return document | {"candidates": _candidates_of(trace, place)}
    taken = list(trace.follow(place))
    trained = [reader for _, reader, there in taken if there is None and MODEL in reader.outputs]
    return {
        **document,
        "sampled": {name: place.row[name] for name in SAMPLING if name in place.row},
        "model": _model_of(trace, place),
        "texts": {name: place.row[name] for name in TEXTS if name in place.row},
        "verdict": _verdict(trace, place),
        "judge": _replies(trace, [place.record, *(r for _, r, _ in taken)], place.row.get("id")),
        "filters": json.loads(place.row.get("filters", "{}")),
        "kept": place.row.get("kept"),
        "stands_in": [_standing(each) for each in trace.standing(place.record, place.row)]
        + [_standing(there) for _, _, there in taken if there is not None],
        "not_in": [_named(r) for _, r, there in taken if there is None and MODEL not in r.outputs],
        "trained": [
            _named(model) | {"made_from_it": [_named(each) for each in trace.made_from(model)]}
            for model in trained
        ],
    }


def row_text(store: Store, record: Record, row_id: str) -> str:
    """Return one row's whole way for people."""
    found = row_json(store, record, row_id)
    stands = found.get("stands_in", [found["row"]])
    sections = [
        [_place_text(found["row"])],
        ["problem", *_fields(found["problem"])],
        ["sampled by", *_fields({**found.get("model", {}), **found.get("sampled", {})})],
        *([name, *_block(text)] for name, text in found.get("texts", {}).items()),
        ["verdict", *_fields(found.get("verdict", {}))],
        ["judge", *(line for reply in found.get("judge", []) for line in _fields(reply))],
        ["filters", *_filter_lines(found)],
        ["stands in", *(f"  {_place_text(each)}" for each in stands)],
        ["passed over by", *(f"  {_name_text(each)}" for each in found.get("not_in", []))],
        ["models trained on it", *_model_lines(found.get("trained", []))],
        ["candidates", *_candidate_lines(found.get("candidates", []))],
    ]
    return "\n\n".join("\n".join(section) for section in sections[:1] + _filled(sections[1:]))


def _filled(sections: Sequence[list[str]]) -> list[list[str]]:
    return [section for section in sections if len(section) > 1]


def why_not_json(store: Store, record: Record, row_id: str) -> Document:
    """Return whether an artifact holds a row, and what kept it out, as JSON values."""
    trace = Trace(store)
    place = trace.find(record, row_id)
    document = {"row": _standing(place), "asked": _named(record)}
    if place.is_problem:
        reasons = _why_no_candidate(trace, place, record)
        return document | {"is_in": place.record.key == record.key, "reasons": reasons}
    reached = _reached(trace, place)
    if (there := reached.get(record.key)) is not None and _is_taken(there):
        return document | {"is_in": True, "stands_in": _standing(there), "reasons": []}
    return document | {"is_in": False, "reasons": list(_reasons(trace, place, record, reached))}


def why_not_text(store: Store, record: Record, row_id: str) -> str:
    """Return why an artifact is without a row, for people."""
    found = why_not_json(store, record, row_id)
    if found["is_in"]:
        place = found["stands_in"] if "stands_in" in found else found["row"]
        where = _place_text(place)
        return f"{visible(row_id)} is in {label(record)}: {where}"
    lines = [f"{visible(row_id)} is not in the rows of {label(record)}:"]
    return "\n".join([*lines, *(f"  {visible(reason)}" for reason in found["reasons"])])


# ---- upstream ------------------------------------------------------------------------------------


def _origin(trace: Trace, place: Place) -> Place:
    """Return the candidate that a row was before it lost its id; the row itself without one."""
    if "filters" in place.row:
        return place
    for each in trace.upstream(place.record):
        for found in trace.standing(each, place.row):
            if "filters" in found.row:
                return found
    return place


def _problem_of(trace: Trace, place: Place) -> Document:
    """Return the problem of a row, the artifact that has it, and what that was read from."""
    key = str(place.row["id"] if place.is_problem else place.row.get("problem_id", ""))
    for each in trace.upstream(place.record):
        for output in trace.row_outputs(each):
            if output == "candidates" or "problem" not in each.kind + output:
                continue
            for _, row in find_rows(trace.folder(each, output), "id", key):
                fields = {name: row[name] for name in PROBLEM if row.get(name) not in (None, "")}
                sources = [link_text(link) for _, link in each.links() if "source" in link]
                world = each.preimage["params"].get("world")
                origin = sources or ([f"the world, seed {each.preimage['params'].get('seed')}"]
                                     if world else [])  # fmt: skip
                return fields | {"from": label(each), "source": ", ".join(origin) or "not recorded"}
    return {name: place.row[name] for name in ("problem_id", *PROBLEM[1:]) if name in place.row}


def _model_of(trace: Trace, place: Place) -> Document:
    """Return which model sampled a row, and the limits that it was asked with."""
    links = [link["id"] for name, link in place.record.links() if name == "model"]
    identifier = str(place.row.get("model_id") or (links or [""])[0])
    if not identifier:
        return {}
    record, _ = trace.makers.get(identifier, (None, ""))
    name = label(record) if record is not None else "not made in this store"
    is_judge = "replies" in place.record.outputs  # its limits are those of its own model
    params = {} if is_judge else place.record.preimage["params"]
    asked = {each: params[each] for each in LIMITS if each in params}
    return {"model": name, "model_id": identifier, **asked}


def _verdict(trace: Trace, place: Place) -> Document:
    """Return what the verifier said, on which answer, against which gold."""
    from r1pipe.verify import extract_answer

    row = place.row
    if "verdict" not in row:
        return {}
    checker = _problem_of(trace, place).get("checker")
    text = row["completion"] if "completion" in row else row["text"]
    extracted = row.get("extracted") or extract_answer(
        text, prefer="tag" if checker == "countdown" else "box"
    )
    return {
        "verdict": row["verdict"],
        "extracted": extracted,
        "gold": row.get("gold"),
        "verifier_version": row.get("verifier_version"),
    }


def _replies(trace: Trace, records: Sequence[Record], row_id: str | None) -> list[Document]:
    """Return what a language model that judged a candidate was asked and said."""
    return [
        {**_named(record), **{name: reply[name] for name in REPLY if reply[name] != ""}}
        for record in records
        if "replies" in trace.row_outputs(record)
        for _, reply in find_rows(trace.folder(record, "replies"), "candidate_id", str(row_id))
    ]


# ---- downstream ----------------------------------------------------------------------------------


def _reached(trace: Trace, place: Place) -> dict[str, Place | None]:
    """Return {record key: where the row stands there, or None}, as far as the row was followed."""
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
    """Say what kept a candidate out of the rows of its own artifact."""
    row, params = place.row, place.record.preimage["params"]
    failed = [name for name, passed in json.loads(row.get("filters", "{}")).items() if not passed]
    for name in failed:
        if name == "verdict":
            said = _verdict(trace, place)
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
    for _, twin in find_rows(folder, "prompt", place.row["prompt"]):
        if twin["kept"] and twin["completion"] == place.row["completion"]:
            return f"it is an exact repeat of {twin['id']}, which is kept"
    return SELECTION["duplicate"]


def _why_passed_over(trace: Trace, place: Place, record: Record) -> Iterator[str]:
    """Say what is known of why a stage did not take a row that it read."""
    for output in trace.row_outputs(record):
        folder = trace.folder(record, output)
        for column in ("row_id", "problem_id"):
            key = place.row.get("id" if column == "row_id" else column)
            for _, pair in find_rows(folder, column, str(key)):
                if "shared" in pair:
                    yield (
                        f"it overlaps {pair['held_out_set']} {pair['held_out_id']}"
                        f" ({pair['variant']}): {pair['shared']}"
                    )
                    return
    facts, ids = record.facts, set(place.record.outputs.values())
    parts = [name for name, link in record.links() if link["id"] in ids]
    full = [part for part in parts if facts.get(f"{part}_short_of_quota") == 0]
    for part in full:
        yield f"the quota of '{part}' was full ({facts.get(f'{part}_rows')} rows)"
    for name in ("over_quota", "near_duplicates"):
        if facts.get(name):
            yield f"{name.replace('_', ' ')}: {json.dumps(facts[name])}"
    if not full and not any(facts.get(name) for name in ("over_quota", "near_duplicates")):
        yield f"{label(record)} does not say; its facts: {json.dumps(dict(facts))}"


def _why_no_candidate(trace: Trace, place: Place, record: Record) -> list[str]:
    """Say what became of a problem in an artifact that was made from it."""
    own = [each for each in _candidates_of(trace, place) if each["artifact"] == record.artifact_id]
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


def _candidates_of(trace: Trace, place: Place) -> list[Document]:
    """Return what was sampled for a problem, per artifact that read it."""
    found = []
    for _, reader in trace.readers.get(place.record.outputs[place.output], []):
        if "candidates" in trace.row_outputs(reader):
            folder = trace.folder(reader, "candidates")
            rows = [row for _, row in find_rows(folder, "problem_id", place.row["id"])]
            kept = sum(row["kept"] for row in rows)
            ids = [str(row["id"]) for row in rows]
            found.append({**_named(reader), "sampled": len(rows), "kept": kept, "ids": ids})
    return found


# ---- words ---------------------------------------------------------------------------------------


def _named(record: Record) -> Document:
    return {"stage": record.stage_name, "artifact": record.artifact_id}


def _standing(place: Place) -> Document:
    identifier = place.row.get("id", place.row.get("problem_id"))
    return {**_named(place.record), "output": place.output, "position": place.position,
            "id": identifier}  # fmt: skip


def _name_text(named: Mapping[str, Any]) -> str:
    return visible(f"{named['stage']}@{short_id(named['artifact'])}")


def _place_text(place: Mapping[str, Any]) -> str:
    where = f"{_name_text(place)} {place['output']}, row {place['position']}"
    return f"{where}: {visible(str(place['id']))}"


def _fields(values: Mapping[str, Any]) -> list[str]:
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


def _model_lines(trained: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for model in trained:
        names = [_name_text(each) for each in model["made_from_it"]]
        more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        then = f"; made from it: {', '.join(names[:MAX_NAMES])}{more}" if names else ""
        lines.append(f"  {_name_text(model)}{then}")
    return lines


def _candidate_lines(candidates: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"  {_name_text(each)}: {each['sampled']} sampled, {each['kept']} kept:"
        f" {visible(', '.join(each['ids']))}"
        for each in candidates
    ]
