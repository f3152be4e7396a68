"""The view of a stage under way, or stopped, paused or failed: what its attempt holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from r1pipe.cli.views import (
    fact_lines,
    memory_text,
    metric_lines,
    sample_lines,
    section,
    warning_lines,
)
from r1pipe.keys import JsonObject
from r1pipe.store.attempt import Attempt
from r1pipe.store.metrics import read_facts, read_metrics, read_samples, read_spent
from r1pipe.text import format_duration, table_lines

if TYPE_CHECKING:
    from r1pipe.store.store import Store


NOT_FINISHED = "not finished, and not being built; the run that began it goes on with it"


def attempt_json(store: Store, attempt: Attempt) -> JsonObject:
    """Return what an attempt has logged so far as one JSON document."""
    state, work = attempt.state or {}, attempt.work
    key = attempt.folder.name
    document: JsonObject = {
        "stage_name": state.get("stage"),
        "key": key,
        "progress": attempt.progress(),
        "built_by": store.lock_owner(key),
        "directory": None if work is None else str(work),
    }
    logs = attempt.folder if work is None else work / "logs"
    facts, spent = read_facts(logs), read_spent(logs)
    lists = {"metrics": read_metrics(logs), "samples": read_samples(logs)}
    return document | spent | {"facts": facts} | lists


def attempt_text(store: Store, attempt: Attempt) -> str:
    """Return what an attempt has logged so far as text."""
    found = attempt_json(store, attempt)
    owner = found["built_by"]
    rows = [
        ("stage", str(found["stage_name"])),
        ("attempt", f"at key {found['key']}"),
        ("status", f"built now by {owner}" if owner else NOT_FINISHED),
        ("kept", found["progress"] or "nothing to go on from"),
        ("took", format_duration(found.get("seconds", 0.0))),
        ("peak memory", memory_text(found.get("peak_rss_bytes", 0), found["facts"])),
        ("directory", str(found["directory"])),
    ]
    sections = [
        "\n".join(table_lines(rows)),
        section("warnings", warning_lines(found["facts"].get("warnings", []))),
        section("facts", fact_lines(found["facts"])),
        section("metrics", metric_lines(found["metrics"])),
        section("samples", sample_lines(found["samples"])),
    ]
    return "\n\n".join(each for each in sections if each)
