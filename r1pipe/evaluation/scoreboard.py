"""The scoreboard: every measure of every benchmark by model, and paired differences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from r1pipe.errors import StageError
from r1pipe.evaluation.metrics import FEW_PROBLEMS, as_dict, paired_difference, with_interval
from r1pipe.keys import JsonObject


def build(
    reports: Mapping[str, JsonObject],
    models: Sequence[str],
    before: Mapping[str, str],
    seed: int,
    harness: Mapping[str, JsonObject] | None = None,
) -> JsonObject:
    """Return the board as JSON values.

    `values[model][benchmark][measure]` is {value, low, high}; `harness[model]["TASK METRIC"]` the
    same of an evaluation harness, without an interval if it gave no standard error. `paired[model]`
    has `before` and `differences[benchmark][score]`, None where the two share no problem. `rough`
    has the benchmarks of few problems with their number. Raises StageError if nothing was measured.
    """
    found = {name: reports[name].get("benchmarks", {}) for name in models if name in reports}
    scores = {name: each["scores"] for name, each in (harness or {}).items()}
    board: JsonObject = {
        "models": list(models),
        "values": {
            name: {b: _values(summary, seed) for b, summary in benchmarks.items()}
            for name, benchmarks in found.items()
        },
        "rough": {b: n for b, n in _fewest(found.values()).items() if n < FEW_PROBLEMS},
        "harness": {name: scores[name] for name in models if name in scores},
        "paired": {
            name: {
                "before": before[name],
                "differences": _differences(
                    found[name], reports[before[name]].get("benchmarks", {}), seed
                ),
            }
            for name in models
            if name in found and before.get(name) in reports
        },
    }
    if not any(board["values"].values()) and not any(board["harness"].values()):
        raise StageError(
            f"the scoreboard would be empty: the reports of {', '.join(models) or 'no model'} hold"
            " no benchmark; give evaluate or benchmark stages as inputs.reports, and name their"
            " labels in params.models"
        )
    return board


def _values(summary: JsonObject, seed: int) -> JsonObject:
    """Return every measure of one benchmark; scores of single problems get an interval here."""
    measures = {
        name: value
        for name, value in summary.items()
        if isinstance(value, dict) and {"value", "low", "high"} <= value.keys()
    }
    for score, by_problem in summary["by_problem"].items():
        measures[score] = with_interval([by_problem[key] for key in sorted(by_problem)], seed=seed)
    return measures


def _differences(mine: JsonObject, others: JsonObject, seed: int) -> JsonObject:
    """Return the paired difference of every per-problem score that both models have."""
    differences: JsonObject = {}
    for benchmark in mine.keys() & others.keys():
        new, old = (each[benchmark]["by_problem"] for each in (mine, others))
        differences[benchmark] = {
            score: as_dict(paired_difference(new[score], old[score], seed=seed))
            if new[score].keys() & old[score].keys()
            else None
            for score in new.keys() & old.keys()
        }
    return differences


def _fewest(found: Iterable[JsonObject]) -> dict[str, int]:
    """Return the least number of problems of each benchmark, over the models."""
    fewest: dict[str, int] = {}
    for benchmarks in found:
        for name, summary in benchmarks.items():
            count = int(summary["num_problems"])
            fewest[name] = min(count, fewest.get(name, count))
    return fewest


def model_of(label: str, models: Sequence[str]) -> str:
    """Return the model that a report of a harness belongs to: `MODEL` or `MODEL-ANYTHING`.

    Raises StageError if there is none.
    """
    fitting = [name for name in models if label == name or label.startswith(f"{name}-")]
    if not fitting:
        raise StageError(
            f"inputs.benchmarks.{label} belongs to no model of params.models"
            f" ({', '.join(models)}); call it MODEL or MODEL-SOMETHING"
        )
    return max(fitting, key=len)
