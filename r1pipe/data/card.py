"""The data card of a mix in Markdown: contents, lengths, sources, licences.

The head is that of a data set card on the Hugging Face hub, so that the folder can be shared as it
is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from r1pipe.data.choosing import Choice
from r1pipe.data.survey import Survey

QUANTILES = (0.0, 0.1, 0.5, 0.9, 0.99, 1.0)
NOT_STATED = "not stated"
NONE = "None"


def data_card(
    title: str,
    survey: Survey,
    choice: Choice,
    settings: Mapping[str, object],
    sources: Mapping[str, str],
    licences: Mapping[str, str],
) -> str:
    """Return the card. `settings` are the mix's parameters; the others are by part."""
    rows = choice.rows
    sections = [
        _head(survey, rows, licences),
        f"# {title}",
        f"{len(rows):,} rows of prompt and completion for supervised fine-tuning.",
        "## Parts",
        _parts(survey, rows, sources, licences),
        "## Tasks",
        _tasks(survey, rows),
        "## Languages",
        _counts("language", survey, rows),
        "## Lengths",
        _lengths(survey, rows),
        "## Sampled by",
        _counts("model_id", survey, rows),
        _counts("verifier_version", survey, rows),
        "## Left out",
        _left_out(choice),
        "## Settings",
        _table(("parameter", "value"), [(n, f"`{v}`") for n, v in settings.items()]),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _head(survey: Survey, rows: NDArray[np.int64], licences: Mapping[str, str]) -> str:
    languages = [name for name in survey.labels["language"].counts(rows) if name != NONE]
    licence = sorted({*licences.values()}) if len(licences) == len(survey.parts) else []
    lines = ["language:", *(f"- {name}" for name in sorted(languages))]
    if len(licence) == 1:
        lines.append(f"license: {licence[0]}")
    return "\n".join(["---", *lines, "task_categories:", "- text-generation", "---"])


def _parts(
    survey: Survey,
    rows: NDArray[np.int64],
    sources: Mapping[str, str],
    licences: Mapping[str, str],
) -> str:
    counts = survey.part_of(rows)
    lines = [
        (part, count, _share(count, len(rows)), sources.get(part, NOT_STATED),
         licences.get(part, NOT_STATED))
        for part, count in counts.items()
    ]  # fmt: skip
    return _table(("part", "rows", "share", "source", "licence"), lines)


def _tasks(survey: Survey, rows: NDArray[np.int64]) -> str:
    """Return each task's rows, share, mean length and levels."""
    labels, chars = survey.labels["task"], survey.lengths(rows, "completion_chars")
    tasks = np.frombuffer(labels.codes, np.intc)[rows]
    lines = []
    for task, count in labels.counts(rows).items():
        own = tasks == labels.values[task]
        levels = survey.labels["level"].counts(rows[own])
        named = ", ".join(f"{level}: {n:,}" for level, n in sorted(levels.items()) if level != NONE)
        lines.append(
            (task, count, _share(count, len(rows)), round(float(chars[own].mean())), named)
        )
    return _table(("task", "rows", "share", "mean characters", "levels"), lines)


def _counts(name: str, survey: Survey, rows: NDArray[np.int64]) -> str:
    counts = survey.labels[name].counts(rows)
    if set(counts) <= {NONE}:
        return ""
    lines = [(NOT_STATED if v == NONE else v, n, _share(n, len(rows))) for v, n in counts.items()]
    return _table((name.replace("_", " "), "rows", "share"), lines)


def _lengths(survey: Survey, rows: NDArray[np.int64]) -> str:
    """Return the quantiles of lengths, over all rows and over each part."""
    names = {"prompt_chars": "prompt, characters", "completion_chars": "completion, characters",
             "tokens": "completion, tokens where known"}  # fmt: skip
    lines = []
    for name, text in names.items():
        values = survey.lengths(rows, name)
        values = values[values >= 0]
        if len(values):
            points = np.quantile(values, QUANTILES, method="inverted_cdf").astype(int).tolist()
            lines.append((text, *points, round(float(values.mean())), int(values.sum())))
    heads = ("least", "10 %", "median", "90 %", "99 %", "most", "mean", "sum")
    return _table(("length", *heads), lines)


def _left_out(choice: Choice) -> str:
    lines = [("equal to an earlier row", choice.repeats)]
    lines += [(f"near to an earlier row, {part}", count) for part, count in choice.near.items()]
    lines += [(f"no room: {name}", count) for name, count in choice.over.items()]
    return _table(("why", "rows"), lines)


def _share(count: int, total: int) -> str:
    return f"{100 * count / total:.1f} %"


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table; numbers get thousands separators."""
    texts = [[f"{v:,}" if isinstance(v, int) else _cell(str(v)) for v in row] for row in rows]
    lines = [heads, ["---"] * len(heads), *texts]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
