"""The scoreboard as tables that fit: Markdown, or text of a given width."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap

from r1pipe.keys import JsonObject
from r1pipe.text import display_width, table_lines, visible

FORM = {
    "format_validity": "format",
    "language_consistency": "language",
    "mean_tokens": "tokens",
    "truncation_rate": "truncated",
    "no_answer_rate": "no answer",
}
"""Measure of the completions -> its column."""
UNUSABLE = "unusable golds"
_AT_K = re.compile(r"(pass|maj)@([0-9]+)")
_TASK = "pass@1 "
_BOUGHT = "What each stage bought (paired difference, 95 % interval; * excludes zero)"
_ROUGH = "rough intervals, of few problems"


@dataclass(frozen=True)
class BoardTable:
    """One table: the first column names the rows; `remarks` stand below it."""

    title: str
    header: list[str]
    rows: list[list[str]]
    remarks: list[str]


def tables(board: JsonObject, zeros: bool = True) -> list[BoardTable]:
    """Return the board as tables; columns that are zero in every row are named below instead.

    With `zeros`, as in the artifact, pass@1 stays though all are zero, and a table without a column
    is left out; else it is its title and the line that names what is zero.
    """
    values: Mapping[str, JsonObject] = board["values"]
    models = [name for name in board["models"] if values.get(name)]
    benchmarks = _union(values[name] for name in models)
    made = [scores_table(board, zeros), paired_table(board, _BOUGHT)] if benchmarks else []
    for benchmark in benchmarks:
        by_model = {name: values[name].get(benchmark, {}) for name in models}
        measures = _union(by_model.values())
        tasks = [name for name in measures if name.startswith(_TASK)]
        made += [
            _table(f"{benchmark}: the completions", by_model, _shown(measures)),
            _table(
                f"{benchmark}: pass@1 by task",
                by_model,
                {name: name.removeprefix(_TASK) for name in tasks if len(tasks) > 1},
            ),
        ]
    found: Mapping[str, JsonObject] = board["harness"]
    harness = {name: found[name] for name in board["models"] if name in found}
    columns = _union(harness.values())
    title = "lm-evaluation-harness (value +- 1.96 standard errors)"
    made.append(_table(title, harness, {name: name for name in columns}))
    return [
        table
        for table in made
        if table.rows and (len(table.header) > 1 or (table.remarks and not zeros))
    ]


def scores_table(board: JsonObject, zeros: bool = True) -> BoardTable:
    """Return pass@1 of every benchmark, and its other scores of single problems.

    Without `zeros`, pass@1 of what no model solved is named below the table as well.
    """
    models = [name for name in board["models"] if board["values"].get(name)]
    benchmarks = _union(board["values"][name] for name in models)
    rows: dict[str, JsonObject] = {}
    for name in models:
        row: JsonObject = {}
        for benchmark in benchmarks:
            measures = board["values"][name].get(benchmark, {})
            row |= {benchmark: measures.get("pass@1")}
            extra = [m for m in measures if m not in FORM and "@" not in m]
            row |= {f"{benchmark} {measure}": measures[measure] for measure in extra}
        rows[name] = row
    columns = _union(rows.values())
    title = "pass@1 (value +- half of the 95 % interval)"
    table = _table(title, rows, {name: name for name in columns}, benchmarks if zeros else ())
    few = [f"{benchmark} ({count})" for benchmark, count in board["rough"].items()]
    remark = f"{_ROUGH}: {', '.join(few)}"
    return BoardTable(table.title, table.header, table.rows, table.remarks + [remark] * bool(few))


def _shown(measures: Sequence[str]) -> dict[str, str]:
    """Return the measures of a benchmark's own table: the largest k, and the completions' form."""
    largest = dict[str, int]()
    for name in measures:
        if (match := _AT_K.fullmatch(name)) is not None and match[2] != "1":
            largest[match[1]] = max(int(match[2]), largest.get(match[1], 0))
    top = {f"{what}@{k}": f"{what}@{k}" for what, k in sorted(largest.items(), reverse=True)}
    return top | {name: column for name, column in FORM.items() if name in measures}


def _table(
    title: str,
    rows: Mapping[str, JsonObject],
    columns: Mapping[str, str],
    keep: Sequence[str] = (),
) -> BoardTable:
    """Return a table of values, without columns that are zero everywhere, unless kept."""
    zero = [
        name
        for name in columns
        if name not in keep and all(not _extent(row.get(name)) for row in rows.values())
    ]
    shown = [name for name in columns if name not in zero]
    body = [[model, *[cell(row.get(n), n) for n in shown]] for model, row in rows.items()]
    remarks = [f"zero in every row: {', '.join(columns[name] for name in zero)}"] if zero else []
    return BoardTable(title, ["model", *[columns[name] for name in shown]], body, remarks)


def _extent(value: JsonObject | None) -> float:
    """Return the largest number of a value or difference; 0 if there is none."""
    numbers = (value or {}).values()
    return max((abs(n) for n in numbers if isinstance(n, int | float)), default=0.0)


def paired_table(board: JsonObject, title: str) -> BoardTable:
    """Return the paired differences; those that are zero in every row are named below instead."""
    found: Mapping[str, JsonObject] = board["paired"]
    paired = {name: found[name] for name in board["models"] if name in found}
    rows = {
        name: {
            benchmark if score == "pass@1" else f"{benchmark} {score}": difference
            for benchmark, scores in sorted(each["differences"].items())
            for score, difference in sorted(scores.items(), reverse=True)
        }
        for name, each in paired.items()
    }
    columns = _union(rows.values())
    zero = [
        name for name in columns if all(_is_zero(row[name]) for row in rows.values() if name in row)
    ]
    shown = [name for name in columns if name not in zero]
    body = [
        [
            name,
            paired[name]["before"],
            *[difference_cell(row[n]) if n in row else "-" for n in shown],
        ]
        for name, row in rows.items()
    ]
    remarks = [f"no difference in any row: {', '.join(zero)}"] if zero else []
    return BoardTable(title, ["model", "against", *shown], body, remarks)


def _is_zero(difference: JsonObject | None) -> bool:
    return difference is not None and not any(difference[n] for n in ("mean", "low", "high"))


def _union(mappings: Iterable[Mapping[str, object]]) -> list[str]:
    """Return all keys, in the order in which they come first."""
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))


def cell(value: Mapping[str, float | None] | None, column: str) -> str:
    """Return a value with the half-width of its interval, as `0.612 +-0.031`."""
    if value is None or value["value"] is None:
        return "-"
    digits = 1 if column in ("tokens", "mean_tokens") else 3
    low, high = value.get("low"), value.get("high")
    half = "" if low is None or high is None else f" +-{(high - low) / 2:.{digits}f}"
    return f"{value['value']:.{digits}f}{half}"


def difference_cell(difference: JsonObject | None) -> str:
    """Return a paired difference with its interval; a star where the interval excludes zero."""
    if difference is None:
        return "no shared problem"
    star = "*" if difference["low"] > 0 or difference["high"] < 0 else ""
    span = f"[{difference['low']:+.3f}, {difference['high']:+.3f}]"
    return f"{difference['mean']:+.3f} {span}{star}"


def report_table(report: JsonObject) -> BoardTable:
    """Return the report of an evaluation as a table, a benchmark in each row."""
    rows, few, first, extents = [], [], [], dict[str, float]()
    for name, measures in report["benchmarks"].items():
        golds = measures.get("unusable_golds", {})
        majority = [each for each in _shown(list(measures)) if each.startswith("maj@")]
        count = measures["num_problems"]
        chosen = ("pass@1", *majority, "truncation_rate", "no_answer_rate", "mean_tokens")
        labels = {each: each if "@" in each else FORM[each] for each in chosen}
        row = {"benchmark": name, "problems": str(count)}
        row["samples"] = str(measures["samples_per_problem"])
        row |= {labels[each]: _with_ends(measures[each], each) for each in chosen}
        rows.append(row | {UNUSABLE: str(golds.get("count", "-"))})
        found = {labels[each]: _extent(measures[each]) for each in chosen}
        for column, extent in {**found, UNUSABLE: golds.get("count", 1)}.items():
            extents[column] = max(extent, extents.get(column, 0))
        few += [f"{name} ({count})"] if measures.get("is_interval_rough") else []
        first += golds.get("first", ())[:1]
    zero = [column for column, extent in extents.items() if not extent]
    header = [column for column in _union(rows) if column not in zero]
    remarks = [f"zero in every row: {', '.join(zero)}"] * bool(zero)
    remarks += [f"{_ROUGH}: {', '.join(few)}"] * bool(few)
    remarks += [f"an unusable gold answer: {text}" for text in first]
    body = [[row.get(column, "-") for column in header] for row in rows]
    return BoardTable("scores (95 % intervals over problems)", header, body, remarks)


def _with_ends(value: Mapping[str, float], measure: str) -> str:
    digits = 1 if measure == "mean_tokens" else 3
    low, high = value["low"], value["high"]
    return f"{value['value']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def harness_table(report: JsonObject) -> BoardTable:
    """Return the report of an evaluation harness as a table, a score in each row."""
    rows = [
        [
            task,
            metric,
            "-" if score["value"] is None else f"{score['value']:.4f}",
            "-" if score["stderr"] is None else f"{score['stderr']:.4f}",
            str(found["num_samples"] if found["num_samples"] is not None else "-"),
            str(found["num_shots"] if found["num_shots"] is not None else "-"),
        ]
        for task, found in report["tasks"].items()
        for metric, score in found["scores"].items()
    ]
    header = ["task", "metric", "value", "standard error", "questions", "shots"]
    return BoardTable(f"scores by lm-eval {report['version']}", header, rows, [])


def render_markdown(board: JsonObject) -> str:
    """Return the board as Markdown tables."""
    parts = []
    for table in tables(board):
        lines = [f"**{_escaped(table.title)}**", "", _line(table.header)]
        lines += [_line(["---"] * len(table.header)), *map(_line, table.rows)]
        parts.append("\n".join(lines + [f"\n{_escaped(remark)}" for remark in table.remarks]))
    return "\n\n".join(parts) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_escaped, cells)) + " |"


def _escaped(text: str) -> str:
    return visible(text).replace("|", "\\|")


def render_text(board: JsonObject, width: int = 160, zeros: bool = True) -> str:
    """Return the board as plain text; a table that is wider than `width` continues below itself."""
    made = tables(board, zeros)
    return "\n\n".join("\n".join(table_text(table, width)) for table in made) + "\n"


def table_text(table: BoardTable, width: int) -> list[str]:
    """Return a table as lines: as many columns side by side as fit, at least one."""
    rows = [[visible(cell) for cell in row] for row in (table.header, *table.rows)]
    widths = [max(display_width(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = wrap(visible(table.title), width)
    first = 1
    while first < len(widths):
        last, used = first + 1, widths[0] + 2 + widths[first]
        while last < len(widths) and used + 2 + widths[last] <= width - 2:
            used += 2 + widths[last]
            last += 1
        part = [[row[0], *map(_right, row[first:last], widths[first:last])] for row in rows]
        lines += ["", *(f"  {line}" for line in table_lines(part))]
        first = last
    for remark in table.remarks:
        lines += wrap(visible(remark), width, initial_indent="  ", subsequent_indent="    ")
    return lines


def _right(text: str, width: int) -> str:
    return " " * (width - display_width(text)) + text
