"""Scores of a model: what the evaluations in the store that read it have measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from r1pipe.regular import UnfitError, parse_json, read_regular
from r1pipe.store.actions import ActionRecord
from r1pipe.store.store import Store

MAX_SUMMARY_BYTES = 1 << 28
MEASURE = "pass@1"


@dataclass(frozen=True)
class Score:
    """pass@1 of one benchmark with its 95 % interval over problems."""

    stage: str
    artifact: str
    benchmark: str
    value: float
    low: float
    high: float
    num_problems: int
    is_rough: bool


def scores_of(model: str, store: Store) -> list[Score]:
    """Return the scores of the model with an id, by evaluations whose reports are in the store."""
    readers = [
        record
        for record in store.records()
        if record.kind == "evaluate" and ("model", model) in _read(record)
    ]
    return [score for reader in readers for score in _scores(reader, store)]


def _read(record: ActionRecord) -> list[tuple[str, object]]:
    return [(name, link.get("id")) for name, link in record.links()]


def _scores(reader: ActionRecord, store: Store) -> Iterator[Score]:
    if not store.has_artifact(reader):
        return
    with suppress(OSError, UnfitError, KeyError, TypeError, ValueError):
        path = store.output_dir(reader, "report") / "summary.json"
        document = parse_json(read_regular(path, MAX_SUMMARY_BYTES))
        benchmarks = document["benchmarks"] if isinstance(document, Mapping) else {}
        for benchmark, measures in benchmarks.items():
            ends = measures[MEASURE]
            yield Score(
                reader.stage_name,
                reader.artifact_id,
                str(benchmark),
                float(ends["value"]),
                float(ends["low"]),
                float(ends["high"]),
                int(measures["num_problems"]),
                bool(measures.get("is_interval_rough")),
            )
