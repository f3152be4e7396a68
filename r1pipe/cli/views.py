"""Views of the store: all artifacts, one of them, and its lineage, as text.

Text that a model wrote is shown with its control characters written out, never acted on.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from r1pipe.api.documents import directory
from r1pipe.cli.scores_view import score_lines
from r1pipe.costs.report import compared_lines
from r1pipe.fitting import fitted_lines, window_width, wrapped_lines
from r1pipe.lineage.records import Edge, Lineage, Node, link_text
from r1pipe.report.timeline import FACT, timeline_of
from r1pipe.text import (
    format_bytes,
    format_duration,
    format_number,
    short_id,
    sparkline,
    table_lines,
    visible,
)

if TYPE_CHECKING:
    from r1pipe.store.actions import ActionRecord as Record
    from r1pipe.store.store import Store

MAX_SAMPLES = 5
MAX_SAMPLE_CHARS = 600
INDENT = 2
"""Of the lines of a section."""
STEP = "step"
GONE = "gone; 'r1pipe plan' says what rebuilds it"
APART = ("predicted", "warnings", "nothing_learned", FACT)
"""Facts that are shown in another way."""

After = Callable[["Record"], Sequence[Edge]]


def table_text(records: Sequence[Record]) -> str:
    """Return all artifacts, oldest first, one per line."""
    if not records:
        return "the store is empty; 'r1pipe run MANIFEST' fills it"
    rows = [("STAGE", "KIND", "ARTIFACT", "MADE", "TOOK", "MANIFEST", "PROFILE")]
    years = {record.created[:4] for record in records}
    for record in sorted(records, key=lambda record: record.created):
        made = record.created[5:16] if len(years) == 1 else record.created[:10]
        rows.append(
            (
                record.stage_name,
                record.kind,
                short_id(record.artifact_id),
                made.replace("T", " "),
                format_duration(record.seconds),
                record.manifest_name,
                record.profile or "-",
            )
        )
    return "\n".join(
        fitted_lines(rows, window_width(sys.stdout), spare=("PROFILE", "MANIFEST", "KIND"))
    )


def record_text(record: Record, store: Store) -> str:
    """Return one artifact's fields, inputs, facts, metrics and samples as text."""
    width = window_width(sys.stdout)
    inner = None if width is None else width - 2  # a section is indented
    sections = [
        _heading(record, store),
        "\n".join(score_lines(record, store, shutil.get_terminal_size((160, 24)).columns)),
        section("params (those that differ from their default)", _tree(record.preimage["params"])),
        section("plugins (digests)", _tree(record.preimage.get("plugins", {}))),
        section("inputs", table_lines([(n, link_text(link)) for n, link in record.links()])),
        section("outputs", table_lines(sorted(record.outputs.items()))),
        section("warnings", warning_lines(record.warnings())),
        section("facts", fact_lines(record.facts)),
        section("predicted and actual", compared_lines(record, store, inner)),
        section("metrics", metric_lines(store.metrics(record))),
        section("samples", sample_lines(store.samples(record))),
    ]
    return "\n\n".join(section for section in sections if section)


def metric_lines(rows: Sequence[Mapping[str, object]]) -> list[str]:
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
    width = window_width(sys.stdout)
    return fitted_lines(table, width and width - INDENT, spare=("MIN", "MAX")) if curves else []


def sample_lines(rows: Sequence[Mapping[str, object]]) -> list[str]:
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


def _branches(record: Record, after: After, indent: str) -> list[str]:
    """Return the tree below a record; what was shown before is not unfolded again."""
    lines: list[str] = []
    seen: set[str] = set()
    waiting = _tips(after(record), indent)
    while waiting:
        prefix, is_last, name, other = waiting.pop()
        tip, rest = ("`- ", "   ") if is_last else ("|- ", "|  ")
        if isinstance(other, Mapping):
            lines.append(f"{prefix}{tip}{name}: {link_text(other)}")
            continue
        label = f"{other.stage_name} {short_id(other.artifact_id)}"
        below = after(other)
        more = " (see above)" if other.key in seen and below else ""
        lines.append(f"{prefix}{tip}{name}: {label}{more}")
        if other.key not in seen:
            seen.add(other.key)
            waiting += _tips(below, prefix + rest)
    return lines


def _tips(nodes: Sequence[Edge], prefix: str) -> list[tuple[str, bool, str, Node]]:
    """Return a node's branches, the one to be shown first at the end of the list."""
    last = len(nodes) - 1
    return [(prefix, i == last, name, node) for i, (name, node) in enumerate(nodes)][::-1]


def _heading(record: Record, store: Store) -> str:
    overlap = timeline_of(record.stage_name, record.facts)
    rows = [
        ("stage", record.stage_name),
        ("kind", f"{record.kind}, version {record.preimage['version']}"),
        ("artifact", record.artifact_id),
        ("key", record.key),
        ("manifest", f"{record.manifest_name}, profile {record.profile or '-'}"),
        ("made", record.created),
        *([("learned", "nothing: see the warnings")] if record.nothing_learned else []),
        ("took", format_duration(record.seconds)),
        *([("overlap", overlap.summary)] if overlap is not None else []),
        ("size", format_bytes(record.size)),
        ("peak memory", memory_text(record.peak_rss_bytes, record.facts)),
        ("directory", directory(record, store) or GONE),
    ]
    return "\n".join(table_lines(rows))


def memory_text(rss_bytes: int, facts: Mapping[str, object]) -> str:
    """Return the most memory that a process held, and that tensors took on a GPU."""
    gpu = facts.get("peak_gpu_bytes")
    text = format_bytes(rss_bytes)
    return f"{text}; on a GPU {format_bytes(gpu)}" if isinstance(gpu, int) else text


def warning_lines(texts: Sequence[str]) -> list[str]:
    """Return what looked wrong, safe for a terminal and broken at its width."""
    lines = [line for text in texts for line in visible(text, keep_lines=True).split("\n")]
    return _in_section(lines)


def fact_lines(facts: Mapping[str, object]) -> list[str]:
    """Return facts as indented lines, but for those that are shown in another way."""
    return _in_section(_tree({n: value for n, value in facts.items() if n not in APART}))


def _in_section(lines: Sequence[str]) -> list[str]:
    """Return lines broken so that they fit the window below a title."""
    width = window_width(sys.stdout)
    return wrapped_lines(lines, width and width - INDENT)


def section(title: str, lines: Sequence[str]) -> str:
    """Return lines below a title; nothing if there are none."""
    return "\n".join([title, *(f"  {line}" for line in lines)]) if lines else ""


def _tree(value: Mapping[str, object]) -> list[str]:
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
