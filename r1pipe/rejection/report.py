"""The yield while sampling goes on, and afterwards what it cost and which problems lost out."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1pipe.errors import ArtifactError
from r1pipe.rejection.params import Quotas
from r1pipe.rejection.schedule import Schedule
from r1pipe.rejection.writer import UnitResult

RECENT = 0.9
"""Weight of what came before in the moving yield; duplicates make it fall as sampling goes on."""
REPORT = "sampling.json"


class Forecast:
    """Rows kept so far, and what the target will still take at the present yield."""

    def __init__(self, target_rows: int) -> None:
        self.target_rows = target_rows
        self.num_kept = self.num_samples = self.num_tokens = 0
        self._recent_rows = self._recent_samples = 0.0
        self._sampled_tokens = 0
        self._began: float | None = None

    def add(self, result: UnitResult, is_sampled: bool) -> None:
        """Count a unit; `is_sampled` tells it from one that was played back."""
        self.num_kept += result.num_new
        self.num_samples += result.num_rows
        self.num_tokens += result.num_tokens
        self._recent_rows = RECENT * self._recent_rows + result.num_new
        self._recent_samples = RECENT * self._recent_samples + result.num_rows
        self._sampled_tokens += result.num_tokens if is_sampled else 0

    def start(self) -> None:
        """Count time from here, the first time: what was before was no sampling."""
        self._began = self._began or time.perf_counter()

    def values(self, samples_left: int) -> tuple[dict[str, float], float]:
        """Return what is logged (rows kept, tokens/s, the way to the target), and the samples that
        this way takes.

        `forecast_rows` are the rows in the end, fewer than the target if it is out of reach; the
        way is left out as long as nothing is kept.
        """
        seconds = time.perf_counter() - self._began if self._began else 0.0
        tokens_per_s = self._sampled_tokens / seconds if seconds else 0.0
        values = {"kept": float(self.num_kept), "tokens_per_s": tokens_per_s}
        if not self._recent_rows:
            return values, float(samples_left)
        rows_per_sample = self._recent_rows / self._recent_samples
        missing = max(0, self.target_rows - self.num_kept)
        samples = min(missing / rows_per_sample, samples_left)
        tokens = samples * self.num_tokens / self.num_samples
        values["forecast_rows"] = round(self.num_kept + samples * rows_per_sample)
        values["target_tokens"] = float(round(tokens))
        if tokens_per_s:
            values["target_s"] = tokens / tokens_per_s
        return values, samples


def cost_of_fixed(schedule: Schedule, target_rows: int) -> dict[str, int]:
    """Estimate what sampling every problem `samples_per_problem` times would have cost.

    Problems in their order until the target is reached, each with the share of new rows and the
    tokens that its own samples had; one that was never sampled with those of all together. More
    samples give more repeats, so the rows are an upper bound and the cost a lower one.
    """
    limit = schedule.params.samples_per_problem
    totals = schedule.num_samples, schedule.num_new, schedule.num_tokens
    all_samples, all_new, all_tokens = map(sum, totals)
    rows = tokens = 0.0
    num_problems = 0
    for own, new, own_tokens in zip(*totals, strict=True):
        if rows >= target_rows:
            break
        num_problems += 1
        rows += limit * (new / own if own else all_new / all_samples)
        tokens += limit * (own_tokens / own if own else all_tokens / all_samples)
    return {
        "samples": num_problems * limit,
        "tokens": round(tokens),
        "rows": min(round(rows), target_rows),
    }


def sampling_report(schedule: Schedule, target_rows: int) -> dict[str, Any]:
    """Return what sampling cost, and how it went with the problems, by task and level too.

    `lost` are the problems that were sampled and have no row; at `not_reached` nobody looked.
    """
    fates: Counter[str] = Counter()
    groups: dict[str, Counter[str]] = {}
    lost: dict[str, list[str]] = {}
    for place, problem in enumerate(schedule.problems):
        fate = schedule.fate(place)
        fates[fate] += 1
        group = groups.setdefault(f"{problem.task} {problem.level}", Counter())
        rows, samples = schedule.num_new[place], schedule.num_samples[place]
        group.update(problems=1, samples=samples, rows=rows)
        group.update(with_rows=rows > 0, not_reached=fate == "not_reached")
        if samples and not rows:
            lost.setdefault(fate, []).append(problem.id)
    return {
        "samples": sum(schedule.num_samples),
        "tokens": sum(schedule.num_tokens),
        "fixed_n": cost_of_fixed(schedule, target_rows),
        "problems": dict(fates),
        "groups": {name: dict(counts) for name, counts in sorted(groups.items())},
        "lost": lost,
    }


def write_report(folder: Path, report: Mapping[str, Any], quotas: Quotas) -> None:
    """Write the report, and the quotas that were in force, beside the candidates' shards."""
    document = {**report, "quotas": quotas.model_dump(mode="json")}
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / REPORT).write_text(text + "\n", encoding="utf-8")


def read_report(candidates: Path) -> tuple[dict[str, Any], Quotas] | None:
    """Return the report on adaptive sampling beside its candidates, and the quotas in force; None
    where there is none, as beside all other candidates.

    Whoever judges candidates anew selects by these quotas and writes the report on. Raises
    ArtifactError for a report that is none.
    """
    path = candidates / REPORT
    if not path.exists():
        return None
    try:
        report = json.loads(path.read_text("utf-8"))
        quotas = Quotas.model_validate_json(json.dumps(report.pop("quotas")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{path}: not the report that adaptive sampling writes ({type(error).__name__});"
            " take the candidates as they were written"
        ) from error
    return report, quotas
