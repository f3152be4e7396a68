"""Render what the store knows: all artifacts, one of them, and its lineage, as text or JSON.

Text that a model wrote is shown with its control characters written out, never acted on.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from r1pipe.text import (
    format_bytes,
    format_duration,
    format_number,
    short_id,
    sparkline,
    table_lines,
    visible,
)

MAX_SAMPLES = 5
MAX_SAMPLE_CHARS = 600
STEP = "step"

Edge = tuple[str, "Record | str"]
"""An input's name, and the record at the other end or the id of a source."""
After = Callable[["Record"], Sequence[Edge]]


class Record(Protocol):
    """What is shown of an action record."""

    key: str
    preimage: Mapping[str, Any]
    kind: str
    stage_name: str
    manifest_name: str
    profile: str | None
    artifact_id: str
    outputs: Mapping[str, str]
    created: str
    seconds: float
    peak_rss_bytes: int
    facts: Mapping[str, Any]
    source_digest: str
    inputs: Mapping[str, Any]


class Shelf(Protocol):
    """What is asked of a store."""

    def metrics(self, record: Any) -> Sequence[Mapping[str, Any]]: ...
    def samples(self, record: Any) -> Sequence[Mapping[str, Any]]: ...
    def artifact_dir(self, artifact_id: str) -> Path: ...


def table_text(records: Sequence[Record]) -> str:
    """Return all artifacts, oldest first, one per line."""
    if not records:
        return "the store is empty; 'r1pipe run MANIFEST' fills it"
    rows = [("STAGE", "KIND", "ARTIFACT", "MADE", "TOOK", "MANIFEST", "PROFILE")]
    for record in sorted(records, key=lambda record: record.created):
        rows.append(
            (
                record.stage_name,
                record.kind,
                short_id(record.artifact_id),
                record.created[:19].replace("T", " "),
                format_duration(record.seconds),
                record.manifest_name,
                record.profile or "-",
            )
        )
    return "\n".join(table_lines(rows))


def record_text(record: Record, records: Sequence[Record], store: Shelf) -> str:
    """Return everything worth knowing about one artifact."""
    sections = [
        _heading(record, store),
        _section("params (those that differ from their default)", _tree(record.preimage["params"])),
        _section("inputs", table_lines(_input_rows(record, records))),
        _section("outputs", table_lines(sorted(record.outputs.items()))),
        _section("facts", _tree(record.facts)),
        _section("metrics", metric_lines(store.metrics(record))),
        _section("samples", sample_lines(store.samples(record))),
    ]
    return "\n\n".join(section for section in sections if section)


def record_json(record: Record, store: Shelf) -> dict[str, Any]:
    """Return one artifact as a JSON document."""
    names = Record.__annotations__
    document = {name: getattr(record, name) for name in names}
    return document | {
        "directory": str(store.artifact_dir(record.artifact_id)),
        "metrics": [dict(row) for row in store.metrics(record)],
        "samples": [dict(row) for row in store.samples(record)],
    }


def summary_json(record: Record) -> dict[str, Any]:
    """Return one line of the table as JSON values."""
    names = ("stage_name", "kind", "artifact_id", "key", "created", "seconds", "manifest_name")
    return {name: getattr(record, name) for name in names} | {"profile": record.profile}


def metric_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return each metric's first, last, least and greatest value with its curve."""
    curves: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            if name != STEP and isinstance(value, int | float) and not isinstance(value, bool):
                curves.setdefault(name, []).append(float(value))
    table = [("NAME", "FIRST", "LAST", "MIN", "MAX", "CURVE")]
    for name, values in curves.items():
        first, last, low, high = map(
            format_number, (values[0], values[-1], min(values), max(values))
        )
        table.append((visible(name), first, last, low, high, sparkline(values)))
    return table_lines(table) if curves else []


def sample_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the first sample rows, each field on its own lines."""
    lines = []
    for number, row in enumerate(rows[:MAX_SAMPLES], start=1):
        lines.append(f"[{number}]")
        for name, value in row.items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            text = visible(text, keep_lines=True)
            if len(text) > MAX_SAMPLE_CHARS:
                text = f"{text[:MAX_SAMPLE_CHARS]} ... ({len(text)} characters)"
            first, *others = text.split("\n")
            lines.append(f"  {visible(name)}: {first}")
            lines.extend(f"  | {line}" for line in others)
    if len(rows) > MAX_SAMPLES:
        lines.append(f"and {len(rows) - MAX_SAMPLES} more ('--json' gives them all)")
    return lines


def lineage_lines(record: Record, records: Sequence[Record]) -> list[str]:
    """Return what an artifact was made from and what was made from it, as two trees."""
    graph = Lineage(records)
    lines = [f"{record.stage_name} {short_id(record.artifact_id)}", "made from"]
    lines += _branches(record, graph.above, "  ") or ["  nothing"]
    lines.append("used by")
    lines += _branches(record, graph.below, "  ") or ["  nothing"]
    return lines


def lineage_json(record: Record, records: Sequence[Record]) -> dict[str, Any]:
    """Return an artifact's lineage as JSON values: every edge once, nearest first."""
    graph = Lineage(records)
    return {
        "artifact": summary_json(record),
        "made_from": _edges(record, graph.above),
        "used_by": _edges(record, graph.below),
    }


def _edges(record: Record, after: After) -> list[dict[str, Any]]:
    edges: list[dict[str, Any]] = []
    seen, waiting = {record.key}, deque([record])
    while waiting:
        node = waiting.popleft()
        for name, other in after(node):
            edge = {"of": node.artifact_id, "input": name}
            if isinstance(other, str):
                edges.append(edge | {"source": other})
                continue
            edges.append(edge | summary_json(other))
            if other.key not in seen:
                seen.add(other.key)
                waiting.append(other)
    return edges


class Lineage:
    """Which record made an id and which records read it."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.makers: dict[str, Record] = {}
        self.readers: dict[str, list[tuple[str, Record]]] = {}
        for record in sorted(records, key=lambda record: record.created):
            for made in (record.artifact_id, *record.outputs.values()):
                self.makers[made] = record
            for name, read in _flat_inputs(record):
                self.readers.setdefault(read, []).append((name, record))

    def above(self, record: Record) -> list[Edge]:
        """Return what a record read: the maker of each input, or the bare id of a source."""
        return [(name, self.makers.get(read, read)) for name, read in _flat_inputs(record)]

    def below(self, record: Record) -> list[Edge]:
        """Return the records that read any output of this one."""
        found: list[Edge] = []
        for made in dict.fromkeys((record.artifact_id, *record.outputs.values())):
            found.extend(self.readers.get(made, []))
        return found


def _branches(record: Record, after: After, indent: str) -> list[str]:
    """Return the tree below a record; what was shown before is not unfolded again."""
    lines: list[str] = []
    seen: set[str] = set()
    waiting = _tips(after(record), indent)
    while waiting:
        prefix, is_last, name, other = waiting.pop()
        tip, rest = ("`- ", "   ") if is_last else ("|- ", "|  ")
        if isinstance(other, str):
            lines.append(f"{prefix}{tip}{name}: source {short_id(other)}")
            continue
        label = f"{other.stage_name} {short_id(other.artifact_id)}"
        below = after(other)
        more = " (see above)" if other.key in seen and below else ""
        lines.append(f"{prefix}{tip}{name}: {label}{more}")
        if other.key not in seen:
            seen.add(other.key)
            waiting += _tips(below, prefix + rest)
    return lines


def _tips(nodes: Sequence[Edge], prefix: str) -> list[tuple[str, bool, str, Record | str]]:
    """Return a node's branches, the one to be shown first at the end of the list."""
    last = len(nodes) - 1
    return [(prefix, i == last, name, node) for i, (name, node) in enumerate(nodes)][::-1]


def _flat_inputs(record: Record) -> Iterator[tuple[str, str]]:
    for name, given in record.inputs.items():
        if isinstance(given, Mapping):
            for label, read in given.items():
                yield f"{name}.{label}", str(read)
        else:
            yield name, str(given)


def _input_rows(record: Record, records: Sequence[Record]) -> list[tuple[str, str, str]]:
    makers = Lineage(records).makers
    rows = []
    for name, read in _flat_inputs(record):
        maker = makers.get(read)
        rows.append((name, short_id(read), maker.stage_name if maker else "source"))
    return rows


def _heading(record: Record, store: Shelf) -> str:
    rows = [
        ("stage", record.stage_name),
        ("kind", f"{record.kind}, version {record.preimage['version']}"),
        ("artifact", record.artifact_id),
        ("key", record.key),
        ("manifest", f"{record.manifest_name}, profile {record.profile or '-'}"),
        ("made", record.created),
        ("took", format_duration(record.seconds)),
        ("peak memory", format_bytes(record.peak_rss_bytes)),
        ("directory", str(store.artifact_dir(record.artifact_id))),
    ]
    return "\n".join(table_lines(rows))


def _section(title: str, lines: Sequence[str]) -> str:
    return "\n".join([title, *(f"  {line}" for line in lines)]) if lines else ""


def _tree(value: Mapping[str, Any]) -> list[str]:
    """Return nested values as indented lines."""
    lines = []
    for name, item in value.items():
        if isinstance(item, Mapping) and item:
            lines.append(f"{visible(name)}:")
            lines.extend(f"  {line}" for line in _tree(item))
        else:
            text = item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)
            lines.append(f"{visible(name)}: {visible(text)}")
    return lines
