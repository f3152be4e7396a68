"""Evaluation: pass@k, majority vote, bootstrap intervals by problem, paired differences.

Legend: P problems, S samples per problem, R resamples. Intervals resample problems, never samples:
the samples of one problem are not independent.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from r1pipe.chat import AnyFormat
from r1pipe.evaluation.votes import votes
from r1pipe.keys import JsonObject
from r1pipe.records import FinishReason, Problem, Row, Verdict
from r1pipe.rewards.format import format_reward
from r1pipe.rewards.language import language
from r1pipe.verify.reading.recast import recast

Array = npt.NDArray[np.float64]

FEW_PROBLEMS = 30
"""Below this a bootstrap interval is rough: with 8 problems it holds the truth 87 times of 100."""
_CHUNK_CELLS = 4_000_000
_Z_95, _Z_80 = 1.959963984540054, 0.8416212335729143


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the unbiased chance that k of n samples, c of them right, hold a right one.

    Equation 1 of arXiv:2107.03374: 1 - C(n-c, k) / C(n, k), as a product that cannot overflow.
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n, not n={n}, c={c}, k={k}")
    if n - c < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))


def sample_counts(num_samples: int) -> list[int]:
    """Return the k of pass@k and maj@k: powers of two, and all samples.

    >>> sample_counts(64), sample_counts(10)
    ([1, 2, 4, 8, 16, 32, 64], [1, 2, 4, 8, 10])
    """
    return [*(2**i for i in range((num_samples - 1).bit_length())), num_samples]


def maj_at_k(answers: Sequence[Hashable | None], is_correct: Sequence[bool], k: int) -> float:
    """Return whether the majority answer of the first k samples is right, ties split.

    Samples without an answer do not vote. Answers vote as they are given: as classes of equal ones
    (`votes`), or as written. Among tied answers the value is the share that is right.
    """
    if len(answers) != len(is_correct) or not 1 <= k <= len(answers):
        raise ValueError(f"maj@k needs 1 <= k <= {len(answers)} samples, each with a verdict")
    counts: Counter[Hashable] = Counter()
    right: dict[Hashable, bool] = {}
    for answer, correct in zip(answers[:k], is_correct[:k], strict=True):
        if answer is not None:
            counts[answer] += 1
            right[answer] = right.get(answer, False) or correct
    if not counts:
        return 0.0
    most = max(counts.values())
    tied = [answer for answer, count in counts.items() if count == most]
    return sum(right[answer] for answer in tied) / len(tied)


def bootstrap_interval(
    values_by_problem: npt.ArrayLike,
    *,
    seed: int,
    num_resamples: int = 2000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the percentile interval of the mean over problems (NaN, NaN without problems)."""
    values = np.asarray(values_by_problem, dtype=np.float64)  # [P]
    if values.ndim != 1:
        raise ValueError(f"one value per problem is needed, not shape {values.shape}")
    if not len(values):
        return math.nan, math.nan
    means = _resampled_means(values, seed, num_resamples)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _resampled_means(values: Array, seed: int, num_resamples: int) -> Array:
    """Return [R] means of problems drawn with replacement, in chunks of bounded memory."""
    generator = np.random.Generator(np.random.PCG64(seed))
    rows = max(1, _CHUNK_CELLS // len(values))
    chunks = []
    for start in range(0, num_resamples, rows):
        count = min(rows, num_resamples - start)
        drawn = generator.integers(0, len(values), size=(count, len(values)))  # [R, P]
        chunks.append(values[drawn].mean(axis=1))
    return np.concatenate(chunks)


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean of a - b over shared problems, its interval, and the detectable difference."""

    mean: float
    low: float
    high: float
    num_problems: int
    min_detectable: float
    """The true difference that a two-sided 5 % test on these problems would find 80 % of the
    time (normal approximation)."""


def paired_difference(
    a_by_problem: Mapping[str, float],
    b_by_problem: Mapping[str, float],
    *,
    seed: int = 0,
    num_resamples: int = 2000,
    level: float = 0.95,
) -> Difference:
    """Return a - b over the problems that both have, joined by id, with a bootstrap interval."""
    shared = sorted(a_by_problem.keys() & b_by_problem.keys())
    if not shared:
        raise ValueError("the two results share no problem id; evaluate both on the same problems")
    values = np.array([a_by_problem[key] - b_by_problem[key] for key in shared], dtype=np.float64)
    low, high = bootstrap_interval(values, seed=seed, num_resamples=num_resamples, level=level)
    deviation = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    detectable = (_Z_95 + _Z_80) * deviation / math.sqrt(len(values))
    return Difference(float(values.mean()), low, high, len(values), detectable)


def summarise(
    rows: Iterable[Row], *, seed: int = 0, fmt: AnyFormat = "chat", num_resamples: int = 2000
) -> JsonObject:
    """Return every measure of one benchmark, each as {value, low, high} over problems.

    Rows are completions with problem_id, task, language, verdict, extracted, num_tokens,
    finish_reason and completion (and `checker` if free-text problems are among them). pass@k and
    maj@k are given for k in 1, 2, 4, ... up to the smallest number of samples of any problem.
    `fmt` is the format whose validity is measured.
    """
    samples = _grouped(rows)
    fewest = min(len(group) for group in samples)
    values = {
        name: [measure(group) for group in samples]
        for name, measure in _measures(fewest, fmt).items()
    }
    majorities = [_majorities(group, sample_counts(fewest)) for group in samples]
    values |= {name: [each[name] for each in majorities] for name in majorities[0]}
    summary: JsonObject = {
        name: with_interval(each, seed=seed, num_resamples=num_resamples)
        for name, each in values.items()
    }
    counts = Counter(str(row["verdict"]) for group in samples for row in group)
    summary["verdicts"] = {
        verdict.value: counts[verdict.value]
        for verdict in Verdict
        if verdict is not Verdict.UNJUDGED or counts[verdict.value]  # few benchmarks have any
    }
    summary["num_problems"] = len(samples)
    summary["num_samples"] = sum(len(group) for group in samples)
    summary["samples_per_problem"] = fewest
    summary["is_interval_rough"] = len(samples) < FEW_PROBLEMS
    return summary


def pass_at_1(rows: Iterable[Row], *, seed: int = 0, num_resamples: int = 2000) -> JsonObject:
    """Return pass@1 of some rows as `summarise` does."""
    values = [pass_at_k(len(group), _num_correct(group), 1) for group in _grouped(rows)]
    return with_interval(values, seed=seed, num_resamples=num_resamples)


def _grouped(rows: Iterable[Row]) -> list[list[Row]]:
    """Return the rows of each problem, in the order of the problems' ids."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["problem_id"]].append(row)
    if not groups:
        raise ValueError("no rows to summarise")
    return [groups[key] for key in sorted(groups)]


def _majorities(group: Sequence[Row], ks: Sequence[int]) -> dict[str, float]:
    """Return maj@k of one problem, by name."""
    is_correct = [row["verdict"] == Verdict.CORRECT for row in group]
    classes = votes(group)
    return {f"maj@{k}": maj_at_k(classes, is_correct, k) for k in ks}


def pass_by_problem(rows: Iterable[Row]) -> dict[str, float]:
    """Return each problem's share of correct samples: what `paired_difference` compares."""
    return mean_by_problem(rows, lambda row: row["verdict"] == Verdict.CORRECT)


def mean_by_problem(rows: Iterable[Row], measure: Callable[[Row], float]) -> dict[str, float]:
    """Return each problem's mean of a measure of its samples, in the order of the rows."""
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        values[row["problem_id"]].append(measure(row))
    return {key: sum(group) / len(group) for key, group in values.items()}


def _measures(fewest: int, fmt: AnyFormat) -> dict[str, Callable[[list[Row]], float]]:
    """Return what is measured per problem, by name."""
    measures: dict[str, Callable[[list[Row]], float]] = {
        f"pass@{k}": lambda group, k=k: pass_at_k(len(group), _num_correct(group), k)  # type: ignore[misc]
        for k in sample_counts(fewest)
    }
    validity = format_reward(fmt)
    measures["format_validity"] = _mean(lambda row: validity(_problem(row), row["completion"]))
    measures["language_consistency"] = _mean(
        lambda row: language(_problem(row), recast(row["completion"], fmt))
    )
    measures["mean_tokens"] = _mean(lambda row: float(row["num_tokens"]))
    measures["truncation_rate"] = _mean(lambda row: row["finish_reason"] == FinishReason.LENGTH)
    measures["no_answer_rate"] = _mean(lambda row: row["verdict"] == Verdict.NO_ANSWER)
    return measures


def _num_correct(group: list[Row]) -> int:
    return sum(row["verdict"] == Verdict.CORRECT for row in group)


def _mean(measure: Callable[[Row], float]) -> Callable[[list[Row]], float]:
    return lambda group: sum(float(measure(row)) for row in group) / len(group)


def _problem(row: Row) -> Problem:
    """Return a problem with only the fields that the format and language rewards read."""
    return Problem(
        id=row["problem_id"],
        task=row["task"],
        prompt="",
        gold="",
        language=row["language"],
        checker=row.get("checker", "math"),
    )


def with_interval(
    values: Sequence[float], *, seed: int, num_resamples: int = 2000
) -> dict[str, float]:
    """Return the mean over problems with its bootstrap interval, as {value, low, high}."""
    low, high = bootstrap_interval(values, seed=seed, num_resamples=num_resamples)
    return {"value": float(np.mean(values)), "low": low, "high": high}


def as_dict(difference: Difference) -> dict[str, float]:
    """Return a difference as plain JSON values."""
    return asdict(difference)
