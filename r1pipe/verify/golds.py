"""Check of gold answers against themselves, before any GPU runs on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from r1pipe.errors import StageError
from r1pipe.records import Problem, Verdict
from r1pipe.sandbox.tests import read_tests
from r1pipe.text import visible
from r1pipe.verify import countdown
from r1pipe.verify.equivalence import MAX_GOLD_CHARS, read_gold, reads_exactly
from r1pipe.verify.reading.words import letters, normal
from r1pipe.verify.workers.pool import DEFAULT_LIMIT_S, Promise, shared_pool

MAX_NAMED = 10


@dataclass(frozen=True, slots=True)
class GoldReport:
    """Problems whose gold answer is usable, and those set aside with the verdict on them."""

    usable: list[Problem]
    quarantined: list[tuple[Problem, Verdict]]

    def counts(self) -> dict[str, int]:
        """Return how many were set aside, by verdict."""
        return dict(Counter(verdict.value for _, verdict in self.quarantined))

    @property
    def rate(self) -> float:
        """Share of the problems that were set aside."""
        count = len(self.quarantined)
        return count / (count + len(self.usable)) if count else 0.0

    def first(self) -> list[str]:
        """Return the first that were set aside, as text for a person."""
        some = self.quarantined[:MAX_NAMED]
        return [f"{visible(p.id)}: {visible(repr(p.gold[:80]))} {verdict}" for p, verdict in some]

    def warning(self) -> str:
        """Return what a stage says of the problems that it set aside."""
        count = len(self.quarantined)
        return (
            f"{count} of {count + len(self.usable)} gold answers do not verify against themselves"
            f" and are left out (first: {self.first()[0]})"
        )

    def to_json(self) -> dict[str, object]:
        """Return what a stage notes of the problems that it set aside."""
        counts, rate = self.counts(), round(self.rate, 6)
        count = len(self.quarantined)
        return {"count": count, "rate": rate, "verdicts": counts, "first": self.first()}


def check_golds(
    problems: Sequence[Problem],
    *,
    max_unusable_frac: float = 0.01,
    timeout_s: float = DEFAULT_LIMIT_S,
    workers: int = 0,
) -> GoldReport:
    """Set aside every problem whose gold answer does not verify against itself.

    A gold that cannot be read, or takes too long, would score every completion wrong; more than
    `max_unusable_frac` of them is an error.
    """
    verdicts = [_self_verdict(problem, timeout_s, workers) for problem in problems]
    report = GoldReport([], [])
    for problem, verdict in zip(problems, verdicts, strict=True):
        settled = verdict.result() if isinstance(verdict, Promise) else verdict
        if settled is Verdict.CORRECT:
            report.usable.append(problem)
        else:
            report.quarantined.append((problem, settled))
    if len(report.quarantined) > max_unusable_frac * len(problems):
        first, verdict = report.quarantined[0]
        raise StageError(
            f"{len(report.quarantined)} of {len(problems)} gold answers do not verify against"
            f" themselves (first: problem {first.id}, gold {first.gold!r}, {verdict}); correct"
            " them, choose another checker, or raise max_unusable_frac"
        )
    return report


def _self_verdict(problem: Problem, timeout_s: float, workers: int) -> Verdict | Promise:
    """Verify a gold answer against itself; algebraic ones in the pool, never as equal strings."""
    gold = problem.gold
    if problem.checker == "math":
        if not read_gold(gold)[0] or len(gold) > MAX_GOLD_CHARS:
            return Verdict.GOLD_UNUSABLE
        if reads_exactly(gold):
            return Verdict.CORRECT
        return shared_pool(workers).submit(gold, gold, timeout_s)
    return Verdict.CORRECT if _is_usable(problem) else Verdict.GOLD_UNUSABLE


def _is_usable(problem: Problem) -> bool:
    """Return True when a checker other than `math` can read the problem's gold answer."""
    gold = problem.gold
    if problem.checker == "number":
        return read_gold(gold)[1] is not None
    if problem.checker == "choice":
        return bool(letters(gold))
    if problem.checker in ("word", "contains"):
        return bool(normal(gold))
    if problem.checker == "judge":
        return bool(gold.strip())
    if problem.checker == "refusal":
        return any(normal(phrase) for phrase in problem.meta.get("refusal", ()))
    if problem.checker == "code":
        return read_tests(problem.meta) is not None
    return problem.checker != "countdown" or _is_countdown(problem)


def _is_countdown(problem: Problem) -> bool:
    """Return whether a gold expression, if there is one, reaches the target."""
    if not {"numbers", "target"} <= problem.meta.keys():
        return False
    try:
        countdown.evaluate(problem.gold)
    except countdown.MalformedError:
        return True  # the target or a remark stands there; the numbers decide
    text = f"<answer>{problem.gold}</answer>"
    return countdown.check(problem, text) is Verdict.CORRECT or _is_target(problem)


def _is_target(problem: Problem) -> bool:
    quantity = read_gold(problem.gold)[1]
    return quantity is not None and quantity.value == problem.meta["target"]
