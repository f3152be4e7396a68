"""How long the completions of an earlier run of a stage were, from what is small in the store.

GRPO logs the mean of each step, candidates and a judge's replies note how many tokens they have in
all, an evaluation's summary has the mean of each benchmark. Rows are not read.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from r1pipe.costs.work import Range
from r1pipe.generator_settings import Expected
from r1pipe.keys import JsonObject
from r1pipe.regular import UnfitError, open_regular, read_regular
from r1pipe.text import short_id

if TYPE_CHECKING:
    from r1pipe.manifest import StageNode
    from r1pipe.store.actions import ActionRecord
    from r1pipe.store.store import Store

ALIKE = Range(0.9, 1.1)
"""Around the mean of a finished run of the same model and params; only the seed may differ."""
OTHER = Range(0.7, 1.4)
"""The same of another model or other params, or of an attempt that has not ended."""
PROMPTS = Range(0.95, 1.05)
"""Around the mean prompt that follows from a run's sums."""
COUNTS = ("sampled", "replies")
"""Notes of finished stages that say how many completions their `sampled_tokens` are of."""
METRICS, SUMMARY = "metrics.jsonl", "summary.json"
WINDOWS, WINDOW_BYTES = 16, 1 << 16
"""Of a long log, so many parts at equal distances are read, from its first step to its last."""
MAX_SUMMARY_BYTES = 1 << 22
MAX_TRIED = 4
"""Results of a stage that are looked into until one tells its lengths."""


class Earlier(Expected):
    """What an earlier run makes one expect, in place of `run.expect`."""

    mean_tokens: float
    """The mean completion that was found, in tokens."""
    found_in: str
    """Name of the result or the attempt."""
    prompt_tokens: tuple[float, float] | None = None
    """Between how many tokens prompts have on average, if that is known."""


def earlier_lengths(store: Store, node: StageNode, model: str | None) -> Earlier | None:
    """Return the lengths of an earlier run of a stage, or None if the store has none.

    Only runs of the same kind under the same name with the same `max_tokens` count: first those of
    the same params and model (`model`: its id, None if it is not known), then the newest. An
    attempt that has not ended counts if there is no result.
    """
    params = node.key_params() or {}
    made = [
        record
        for record in store.known()
        if record.stage_name == node.name
        and record.kind == node.kind.kind
        and _limit(record.preimage["params"]) == _limit(params)
    ]
    likeness = {record.key: _is_alike(record, params, model) for record in made}
    made.sort(key=lambda record: (likeness[record.key], record.created), reverse=True)
    for record in made[:MAX_TRIED]:
        if (mean := _mean_of(store, record)) is not None:
            name = f"{record.stage_name}@{short_id(record.artifact_id)}"
            margin = ALIKE if likeness[record.key] else OTHER
            return _earlier(mean, margin, name, _prompts(node, record, mean))
    for attempt in reversed(store.attempts(node.name)):
        preimage, work = (attempt.state or {}).get("preimage", {}), attempt.work
        if work is None or preimage.get("kind") != node.kind.kind:
            continue
        if _limit(preimage.get("params", {})) != _limit(params):
            continue
        if (mean := _mean_step(work / "logs" / METRICS)) is not None:
            return _earlier(mean, OTHER, f"an attempt at {node.name}", None)
    return None


def _earlier(mean: float, margin: Range, name: str, prompts: float | None) -> Earlier:
    around = margin * mean
    found = None if prompts is None else PROMPTS * prompts
    return Earlier(
        completion_tokens=(around.low, around.high),
        mean_tokens=mean,
        found_in=name,
        prompt_tokens=None if found is None else (found.low, found.high),
    )


def _limit(params: Mapping[str, object]) -> object:
    return params.get("max_tokens")


def _is_alike(record: ActionRecord, params: JsonObject, model: str | None) -> bool:
    """Return whether a result is of the same model and params, but for the seed."""
    then, read = record.preimage["params"], record.preimage["inputs"].get("model")
    is_same = {**then, "seed": 0} == {**params, "seed": 0}
    return is_same and model is not None and read == model


def _mean_of(store: Store, record: ActionRecord) -> float | None:
    """Return the mean completion of a finished stage, in tokens, or None if it does not tell."""
    tokens = _positive(record.facts.get("sampled_tokens"))
    counts = (_positive(record.facts.get(name)) for name in COUNTS)
    if tokens is not None and (count := next(filter(None, counts), None)) is not None:
        return tokens / count
    if "report" in record.outputs and store.has_artifact(record):
        path = store.output_dir(record, "report") / SUMMARY
        with suppress(OSError, UnfitError, ValueError, KeyError, TypeError, AttributeError):
            return _mean_benchmark(json.loads(read_regular(path, MAX_SUMMARY_BYTES)))
    return _mean_step(store.logs / record.logs / METRICS)


def _mean_benchmark(summary: JsonObject) -> float | None:
    """Return the mean of all completions of an evaluation's benchmarks."""
    found = summary["benchmarks"].values()
    counts = [_positive(each["num_samples"]) or 0.0 for each in found]
    means = [_positive(each["mean_tokens"]["value"]) or 0.0 for each in found]
    total = sum(count * mean for count, mean in zip(counts, means, strict=True))
    return _positive(total / (sum(counts) or 1.0))


def _mean_step(path: Path) -> float | None:
    """Return the mean of the logged steps' `completion_tokens`; of a long log, of parts of it."""
    means = [mean for row in _some_rows(path) if (mean := _positive(row.get("completion_tokens")))]
    return sum(means) / len(means) if means else None


def _some_rows(path: Path) -> Iterator[JsonObject]:
    """Yield the rows of a log; of one larger than all windows, the whole lines in each of them."""
    try:
        file = open_regular(path)
    except (OSError, UnfitError):
        return
    with file:
        size = os.fstat(file.fileno()).st_size
        whole = WINDOWS * WINDOW_BYTES
        starts = [0]
        if size > whole:
            starts = [(size - WINDOW_BYTES) * i // (WINDOWS - 1) for i in range(WINDOWS)]
        for start in starts:
            file.seek(start)
            lines = file.read(whole if len(starts) == 1 else WINDOW_BYTES).split(b"\n")
            for line in lines[1 if start else 0 :]:
                with suppress(ValueError):  # cut at the end of a window, or torn by a kill
                    if isinstance(row := json.loads(line), dict):
                        yield row


def _prompts(node: StageNode, record: ActionRecord, mean: float) -> float | None:
    """Return the mean prompt of a policy's training, where every completion was trained on: under a
    KL term in the loss all are."""
    then, predicted = record.preimage["params"], record.facts.get("predicted")
    fields = type(node.params).model_fields  # parameters that are the default are not in a preimage
    kl_coef, kl_in = (
        then.get(name, fields[name].default if name in fields else None)
        for name in ("kl_coef", "kl_in")
    )
    if not kl_coef or kl_in not in (None, "loss"):
        return None
    completions = predicted.get("completions") if isinstance(predicted, dict) else None
    trained, count = _positive(record.facts.get("trained_tokens")), _positive(completions)
    if trained is None or count is None:
        return None
    return _positive(trained / count - mean)


def _positive(value: object) -> float | None:
    is_number = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if is_number and value > 0 else None  # type: ignore[operator, arg-type]
