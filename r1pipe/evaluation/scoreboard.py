"""The scoreboard's table: measures of every model, and paired differences to the one before."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from r1pipe.evaluation.metrics import as_dict, bootstrap_interval, paired_difference
from r1pipe.keys import JsonObject

REASONING, GENERAL, SAFETY = "reasoning", "general", "safety"
PAIRED = {
    "pass@1": (REASONING, "pass@1"),
    "general": (GENERAL, "pass@1"),
    "helpful": (GENERAL, "helpful"),
    "refusal": (SAFETY, "pass@1"),
}
"""Column -> (benchmark, per-problem score): those with a value for each problem."""
MEASURES = {
    "pass@8": "pass@8",
    "maj@8": "maj@8",
    "format": "format_validity",
    "language": "language_consistency",
    "tokens": "mean_tokens",
    "truncated": "truncation_rate",
    "no answer": "no_answer_rate",
}
"""Column -> measure of the reasoning benchmark."""


def build(
    reports: Mapping[str, JsonObject], models: Sequence[str], before: Mapping[str, str], seed: int
) -> JsonObject:
    """Return the board as JSON values: `models`, `values[model][column]`, `paired[model]`.

    A value is {value, low, high}; a paired difference also names the model it is taken against.
    """
    values = {name: _values(reports[name]["benchmarks"], seed) for name in models}
    paired = {
        name: {
            "before": before[name],
            **{
                column: as_dict(paired_difference(_scores(reports[name], column), old, seed=seed))
                for column in PAIRED
                if (old := _scores(reports[before[name]], column))
            },
        }
        for name in models
        if name in before
    }
    return {"models": list(models), "values": values, "paired": paired}


def _scores(report: JsonObject, column: str) -> dict[str, float]:
    benchmark, score = PAIRED[column]
    found: dict[str, float] = (
        report["benchmarks"].get(benchmark, {}).get("by_problem", {}).get(score, {})
    )
    return found


def _values(benchmarks: JsonObject, seed: int) -> JsonObject:
    """Return every column of one model."""
    columns: JsonObject = {}
    for column, (benchmark, score) in PAIRED.items():
        if benchmark in benchmarks:
            scores = benchmarks[benchmark]["by_problem"][score]
            columns[column] = _with_interval([scores[key] for key in sorted(scores)], seed)
    reasoning = benchmarks.get(REASONING, {})
    columns.update(
        {column: reasoning[name] for column, name in MEASURES.items() if name in reasoning}
    )
    columns.update({n: v for n, v in reasoning.items() if n.startswith("pass@1 ")})
    return columns


def _with_interval(scores: Sequence[float], seed: int) -> dict[str, float]:
    import numpy as np

    values = np.array(scores, dtype=np.float64)
    low, high = bootstrap_interval(values, seed=seed)
    return {"value": float(values.mean()), "low": low, "high": high}


def cell(value: Mapping[str, float] | None, column: str) -> str:
    """Return a value with the half-width of its interval, as `0.612 +-0.031`."""
    if value is None:
        return "-"
    digits = 1 if column == "tokens" else 3
    half = (value["high"] - value["low"]) / 2
    return f"{value['value']:.{digits}f} +-{half:.{digits}f}"


def difference_cell(difference: JsonObject | None) -> str:
    """Return a paired difference with its interval; a star where the interval excludes zero."""
    if difference is None:
        return "-"
    star = "*" if difference["low"] > 0 or difference["high"] < 0 else ""
    span = f"[{difference['low']:+.3f}, {difference['high']:+.3f}]"
    return f"{difference['mean']:+.3f} {span}{star}"


def tables(board: JsonObject) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return the board as tables: title, header, rows of text."""
    models, values, paired = board["models"], board["values"], board["paired"]
    columns = list(dict.fromkeys(column for name in models for column in values[name]))
    tasks = [column for column in columns if column.startswith("pass@1 ")]
    scores = [column for column in columns if column in PAIRED or column in ("pass@8", "maj@8")]
    health = [column for column in MEASURES if column in columns and column not in scores]
    made = [
        (title, ["model", *chosen], [
            [name, *[cell(values[name].get(column), column) for column in chosen]]
            for name in models
        ])
        for title, chosen in (
            ("Scores (value +- half of the 95 % interval)", scores),
            ("By task (pass@1)", tasks),
            ("Form of the reasoning completions", health),
        )
        if chosen
    ]  # fmt: skip
    differences = [
        [name, paired[name]["before"], *[difference_cell(paired[name].get(c)) for c in PAIRED]]
        for name in models
        if name in paired
    ]
    title = "What each stage bought (paired difference, 95 % interval; * excludes zero)"
    return [*made, (title, ["model", "against", *PAIRED], differences)]


def render_markdown(board: JsonObject) -> str:
    """Return the board as Markdown tables."""
    parts = []
    for title, header, rows in tables(board):
        lines = [f"**{title}**", "", _line(header), _line(["---"] * len(header))]
        parts.append("\n".join([*lines, *map(_line, rows)]))
    return "\n\n".join(parts) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def render_text(board: JsonObject) -> str:
    """Return the board as plain text for a terminal."""
    console = Console(file=io.StringIO(), width=160, color_system=None, highlight=False)
    for title, header, rows in tables(board):
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
        for number, name in enumerate(header):
            table.add_column(name, justify="left" if number == 0 else "right", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text
