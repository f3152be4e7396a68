"""Results of lm-evaluation-harness: what it wrote, checked, as scores with standard errors."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from r1pipe.errors import StageError
from r1pipe.keys import JsonObject
from r1pipe.text import visible

HARNESS_FILE = "harness.json"
"""The report of a benchmark stage."""
MAX_RESULT_BYTES = 16 << 20
MAX_SCORES = 10_000
_Z_95 = 1.959963984540054
_STDERR = "_stderr"


def read_results(folder: Path, task: str) -> JsonObject:
    """Return what the harness found of one task that it was asked for.

    `version` is the harness's own; `tasks[name]` has `scores` by metric, shots, samples and the
    version of the task. A group comes with its parts; `is_shown` says which are columns of a board:
    the task itself, or its parts if it has no scores of its own. Raises StageError where the file
    is not what lm-eval writes.
    """
    path = _result_file(folder)
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _broken(path, str(error)) from None
    results = _mapping(document, "results", path)
    names = list(results)
    is_own = task in results and any(_scores(_mapping(results, task, path), path))
    tasks: dict[str, dict[str, Any]] = {
        name: {
            "scores": dict(_scores(_mapping(results, name, path), path)),
            "num_shots": _optional(document, "n-shot", name),
            "num_samples": _optional(document, "n-samples", name, "effective"),
            "version": _optional(document, "versions", name),
            "is_shown": name == task or not is_own,
        }
        for name in names
    }
    count = sum(len(each["scores"]) for each in tasks.values())
    if not 0 < count <= MAX_SCORES:
        raise _broken(path, f"{count} scores")
    version = document.get("lm_eval_version")
    return {"version": version if isinstance(version, str) else None, "tasks": tasks}


def _result_file(folder: Path) -> Path:
    """Return the newest results file; its name ends in the time at which it was written."""
    found = sorted(folder.rglob("results_*.json"), key=lambda path: path.name)
    if not found:
        raise StageError("lm-eval ended without an error and wrote no results_*.json")
    size = found[-1].stat().st_size
    if size > MAX_RESULT_BYTES:
        raise _broken(found[-1], f"{size:,} bytes, more than {MAX_RESULT_BYTES:,}")
    return found[-1]


def _scores(metrics: Mapping[str, Any], path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every metric with its value; keys are `METRIC,FILTER` and `METRIC_stderr,FILTER`."""
    for key, value in metrics.items():
        metric, comma, kind = key.partition(",")
        if not comma or metric.endswith(_STDERR):
            continue
        number = _number(value)
        if number is None and value != "N/A" and not isinstance(value, float):
            raise _broken(path, f"the value of {key} is {value!r}")
        error = _number(metrics.get(f"{metric}{_STDERR},{kind}"))
        half = None if number is None or error is None else _Z_95 * error
        yield (
            metric if kind == "none" else f"{metric} ({kind})",
            {
                "value": number,
                "stderr": error,
                "low": None if number is None or half is None else number - half,
                "high": None if number is None or half is None else number + half,
            },
        )


def _number(value: object) -> float | None:
    """Return a finite number, or None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None  # type: ignore[arg-type]


def _mapping(document: object, name: str, path: Path) -> dict[str, Any]:
    value = document.get(name) if isinstance(document, dict) else None
    if not isinstance(value, dict):
        raise _broken(path, f"{name!r} is no mapping")
    return value


def _optional(document: Mapping[str, Any], *names: str) -> int | float | str | None:
    """Return a number or text that some versions of the harness leave out."""
    value: object = document
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, int | float | str) else None


def _broken(path: Path, what: str) -> StageError:
    return StageError(
        f"{path.name}: not a results file of lm-eval as r1pipe knows it: {visible(what[:200])};"
        " params.harness_version 0.4.9 or later writes one"
    )


def merged(stage: str, model: str, folders: Sequence[Path]) -> JsonObject:
    """Return the scores of several reports on one model, as {"scores": {"TASK METRIC": value}}.

    Raises StageError when two have the same score.
    """
    scores: JsonObject = {}
    for folder in folders:
        report = json.loads((folder / HARNESS_FILE).read_text())
        for task, found in report["tasks"].items():
            if not found["is_shown"]:
                continue
            for metric, value in found["scores"].items():
                name = f"{task} {metric}"
                if name in scores:
                    raise StageError(
                        f"{stage}: two benchmark reports of {model} have {name!r}; give one of them"
                    )
                scores[name] = value
    return {"scores": scores}
