"""The JSON documents of `r1pipe show --json`, and what makes them of a record.

`docs/api.md` has every field; `tests/test_api.py` compares.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeAlias, TypedDict, cast

from r1pipe.keys import JsonObject
from r1pipe.lineage.records import Edge, Lineage

if TYPE_CHECKING:
    from r1pipe.store.actions import ActionRecord as Record
    from r1pipe.store.store import Store

After: TypeAlias = "Callable[[Record], Sequence[Edge]]"
SUMMARY = ("stage_name", "kind", "artifact_id", "key", "created", "seconds", "manifest_name")


class Summary(TypedDict):
    """One artifact of `r1pipe show --json`, which prints a list of these."""

    stage_name: str
    kind: str
    artifact_id: str
    key: str
    created: str
    seconds: float
    manifest_name: str
    profile: str | None


class Document(Summary):
    """Everything about one artifact: `r1pipe show NAME --json`."""

    preimage: JsonObject
    outputs: dict[str, str]
    inputs: JsonObject
    peak_rss_bytes: int
    size: int
    logs: str
    facts: JsonObject
    code: dict[str, str]
    actual: dict[str, float | None] | None
    directory: str | None
    metrics: list[JsonObject]
    samples: list[JsonObject]


class LineageDocument(TypedDict):
    """What an artifact was made from and what used it: `r1pipe show NAME --lineage --json`."""

    artifact: Summary
    made_from: list[JsonObject]
    used_by: list[JsonObject]


def summary(record: Record) -> Summary:
    """Return one line of the table of artifacts."""
    found = {name: getattr(record, name) for name in SUMMARY} | {"profile": record.profile}
    return cast(Summary, found)


def document(record: Record, store: Store) -> Document:
    """Return everything about one artifact."""
    from r1pipe.costs.report import actual_values

    found = asdict(record) | {
        "actual": actual_values(record, store) if "predicted" in record.facts else None,
        "directory": directory(record, store),
        "metrics": [dict(row) for row in store.metrics(record)],
        "samples": [dict(row) for row in store.samples(record)],
    }
    return cast(Document, found)


def lineage_document(record: Record, records: Sequence[Record]) -> LineageDocument:
    """Return an artifact's lineage: every edge once, nearest first."""
    graph = Lineage(records)
    return {
        "artifact": summary(record),
        "made_from": _edges(record, graph.above),
        "used_by": _edges(record, graph.below),
    }


def directory(record: Record, store: Store) -> str | None:
    """Return where an artifact's sealed folder is; None if its bytes are gone."""
    return str(store.artifact_dir(record.artifact_id)) if store.has_artifact(record) else None


def _edges(record: Record, after: After) -> list[JsonObject]:
    edges: list[JsonObject] = []
    seen, waiting = {record.key}, deque([record])
    while waiting:
        node = waiting.popleft()
        for name, other in after(node):
            edge: JsonObject = {"of": node.artifact_id, "input": name}
            if isinstance(other, Mapping):
                edges.append(edge | dict(other))
                continue
            edges.append(edge | summary(other))
            if other.key not in seen:
                seen.add(other.key)
                waiting.append(other)
    return edges
