"""Facts about one row from the store: problem, model, verdict, the problem's other candidates.

Artifacts are read as they are; nothing here decides or prints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from r1pipe.keys import JsonObject
from r1pipe.lineage.records import link_text
from r1pipe.lineage.trace import Place, Trace, find_rows, label
from r1pipe.text import short_id, visible

if TYPE_CHECKING:
    from r1pipe.store.actions import ActionRecord as Record

PROBLEM = ("id", "task", "language", "level", "checker", "prompt", "gold", "meta", "solution")
LIMITS = ("max_tokens", "samples_per_problem")
REPLY = ("vote", "verdict", "fault", "judge_id", "question", "reply")
Document = JsonObject


def problem_of(trace: Trace, place: Place) -> Document:
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


def model_of(trace: Trace, place: Place) -> Document:
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


def verdict_of(trace: Trace, place: Place) -> Document:
    """Return the verdict, the answer extracted, and the gold answer."""
    from r1pipe.verify import extract_answer
    from r1pipe.verify.reading.recast import recast

    row = place.row
    if "verdict" not in row:
        return {}
    checker = problem_of(trace, place).get("checker")
    extracted = row.get("extracted") or extract_answer(
        recast(row.get("completion", ""), row.get("format", "chat")),
        prefer="tag" if checker == "countdown" else "box",
    )
    return {
        "verdict": row["verdict"],
        "extracted": extracted,
        "gold": row.get("gold"),
        "verifier_version": row.get("verifier_version"),
    }


def replies_of(trace: Trace, records: Sequence[Record], row_id: str | None) -> list[Document]:
    """Return the questions to an LLM judge about a candidate, and its replies."""
    return [
        {**named(record), **{name: reply[name] for name in REPLY if reply[name] != ""}}
        for record in records
        if "replies" in trace.row_outputs(record)
        for _, reply in find_rows(trace.folder(record, "replies"), "candidate_id", str(row_id))
    ]


def candidates_of(trace: Trace, place: Place) -> list[Document]:
    """Return a problem's candidates, per artifact that read the problem."""
    found = []
    for _, reader in trace.readers.get(place.record.outputs[place.output], []):
        if "candidates" in trace.row_outputs(reader):
            folder = trace.folder(reader, "candidates")
            rows = [row for _, row in find_rows(folder, "problem_id", place.row["id"])]
            kept = sum(row["kept"] for row in rows)
            ids = [str(row["id"]) for row in rows]
            found.append({**named(reader), "sampled": len(rows), "kept": kept, "ids": ids})
    return found


def named(record: Record) -> Document:
    return {"stage": record.stage_name, "artifact": record.artifact_id}


def standing(place: Place) -> Document:
    identifier = place.row.get("id", place.row.get("problem_id"))
    return {**named(place.record), "output": place.output, "position": place.position,
            "id": identifier}  # fmt: skip


def name_text(named: Document) -> str:
    return visible(f"{named['stage']}@{short_id(named['artifact'])}")


def place_text(place: Document) -> str:
    where = f"{name_text(place)} {place['output']}, row {place['position']}"
    return f"{where}: {visible(str(place['id']))}"
