"""Audit: labelled pairs verified by r1pipe and by plain math-verify, both in killable workers.

A false positive is a wrong completion called correct; a false negative is a right one that is not.
A verifier that is too late on a pair, or fails on it, has refused it.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from r1pipe.audit.pairs import ALL, Pair
from r1pipe.keys import JsonObject
from r1pipe.records import Problem, Verdict
from r1pipe.text import excerpt, table_lines, visible
from r1pipe.verify.checkers import WINDOW, Verification, verify_stream
from r1pipe.verify.workers.pool import DEFAULT_LIMIT_S, Pool, Promise, default_size

OURS, PLAIN = "r1pipe", "math-verify"
_PLAIN_MODULE = "r1pipe.audit.plain_math_verify"
SHOW = 20
"""Disagreements that a report names, unless told otherwise."""
MAX_GOLD_CHARS, MAX_COMPLETION_CHARS = 60, 120
_KNOWN_TO_PLAIN = ("math", "number")
_Z_95 = 1.959963984540054

PairSource: TypeAlias = Callable[[], Iterator[Pair]]
"""Gives the pairs from the first one on; each verifier reads them once."""
VerifierRates: TypeAlias = dict[str, dict[str, float]]
"""`false_positive` and `false_negative` of one verifier, each a `Rate.row`."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rate:
    """Errors among cases, with a 95 % Wilson interval."""

    errors: int
    cases: int

    @property
    def value(self) -> float:
        """The observed rate; 0 where there are no cases."""
        return self.errors / self.cases if self.cases else 0.0

    def interval(self) -> tuple[float, float]:
        """Return the Wilson score interval, which stays sensible at 0 errors."""
        if not self.cases:
            return 0.0, 1.0
        n, p, z2 = self.cases, self.value, _Z_95**2
        centre = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = _Z_95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
        return max(0.0, centre - half), min(1.0, centre + half)

    def row(self) -> dict[str, float]:
        """Return plain JSON values."""
        low, high = self.interval()
        return {"errors": self.errors, "cases": self.cases, "rate": self.value} | {
            "low": low,
            "high": high,
        }


@dataclass
class Tally:
    """What one verifier said of the pairs, by kind."""

    counts: dict[tuple[str, bool], list[int]] = field(
        default_factory=lambda: defaultdict(lambda: [0, 0])
    )
    """Errors and cases, by kind and by whether the completion is right."""
    verdicts: Counter[str] = field(default_factory=Counter)
    num_not_asked: int = 0
    seconds: float = 0.0

    def add(self, pair: Pair, verdict: Verdict) -> bool:
        """Count a verdict; return whether it agrees with the label."""
        agrees = (verdict is Verdict.CORRECT) == pair.is_right
        count = self.counts[pair.kind, pair.is_right]
        count[0] += not agrees
        count[1] += 1
        self.verdicts[verdict.value] += 1
        return agrees

    def rates(self, kind: str | None) -> VerifierRates:
        """Return both error rates on one kind (None: on all pairs)."""
        rates = {}
        for name, is_right in (("false_positive", False), ("false_negative", True)):
            chosen = [n for (k, r), n in self.counts.items() if r is is_right and kind in (None, k)]
            rates[name] = Rate(sum(n[0] for n in chosen), sum(n[1] for n in chosen)).row()
        return rates


@dataclass
class Disagreements:
    """The pairs on which our verdict is not the label: the count, and the first `show`."""

    show: int
    count: int = 0
    rows: dict[int, JsonObject] = field(default_factory=dict)
    """By the number of the pair."""

    def add(self, number: int, pair: Pair, said: Verification) -> None:
        """Keep a disagreement of ours."""
        self.count += 1
        if len(self.rows) < self.show:
            self.rows[number] = {
                "place": pair.place,
                "kind": pair.kind,
                "label": "right" if pair.is_right else "wrong",
                "gold": pair.problem.gold,
                "completion": pair.completion,
                "extracted": said.extracted,
                "method": said.method,
                OURS: said.verdict.value,
            }


def audit(
    pairs: PairSource,
    *,
    jobs: int = 0,
    timeout_s: float = DEFAULT_LIMIT_S,
    with_math_verify: bool = True,
    show: int = SHOW,
) -> JsonObject:
    """Verify labelled pairs; return the rates of each verifier by kind, and our disagreements.

    The report holds `num_pairs`, `kinds` (kind -> verifier -> false_positive, false_negative),
    `total`, `verdicts`, `num_not_asked` (pairs of tasks that math-verify does not know) and
    `seconds` (wall, with the start of the workers) by verifier, `num_disagreements`, and the first
    `show` of these with what both verifiers said. In memory is a window of the pairs.
    """
    found = Disagreements(show)
    tallies = {OURS: Tally()}
    ours = _in_step(pairs, lambda given: verify_stream(given, timeout_s=timeout_s, workers=jobs))
    for number, pair, said in _timed(ours, tallies[OURS]):
        if not tallies[OURS].add(pair, said.verdict):
            found.add(number, pair, said)
    if with_math_verify:
        tally = tallies[PLAIN] = Tally()
        plain = _in_step(pairs, lambda given: plain_stream(given, jobs, timeout_s))
        for number, pair, verdict in _timed(plain, tally):
            if verdict is None:
                tally.num_not_asked += 1
            else:
                tally.add(pair, verdict)
            if number in found.rows:
                found.rows[number][PLAIN] = "not asked" if verdict is None else verdict.value
    return _report(tallies, found)


def _report(tallies: Mapping[str, Tally], found: Disagreements) -> JsonObject:
    ours = tallies[OURS]
    kinds = sorted({kind for kind, _ in ours.counts})
    return {
        "num_pairs": ours.verdicts.total(),
        "kinds": {kind: {n: t.rates(kind) for n, t in tallies.items()} for kind in kinds},
        "total": {name: tally.rates(None) for name, tally in tallies.items()},
        "verdicts": {name: dict(tally.verdicts) for name, tally in tallies.items()},
        "num_not_asked": {name: tally.num_not_asked for name, tally in tallies.items()},
        "seconds": {name: round(tally.seconds, 3) for name, tally in tallies.items()},
        "num_disagreements": found.count,
        "disagreements": list(found.rows.values()),
    }


def _in_step(
    pairs: PairSource, verify: Callable[[Iterator[tuple[Problem, str]]], Iterator[T]]
) -> Iterator[tuple[int, Pair, T]]:
    """Yield each pair's number from 0, the pair, and what a stream of verdicts says of it."""
    waiting: deque[Pair] = deque()

    def given() -> Iterator[tuple[Problem, str]]:
        for pair in pairs():
            waiting.append(pair)
            yield pair.problem, pair.completion

    for number, said in enumerate(verify(given())):
        yield number, waiting.popleft(), said


def _timed(items: Iterable[T], tally: Tally) -> Iterator[T]:
    started = time.perf_counter()
    yield from items
    tally.seconds = time.perf_counter() - started


def plain_stream(
    pairs: Iterable[tuple[Problem, str]], jobs: int, timeout_s: float
) -> Iterator[Verdict | None]:
    """Verify by plain math-verify in a pool of its own, in order; None for tasks beyond it."""
    waiting: deque[Promise | None] = deque()
    with closing(Pool(jobs or default_size(), _PLAIN_MODULE)) as pool:
        for problem, text in pairs:
            is_known = problem.checker in _KNOWN_TO_PLAIN
            waiting.append(pool.submit(problem.gold, text, timeout_s) if is_known else None)
            if len(waiting) >= WINDOW:
                yield _settled(waiting.popleft())
        while waiting:
            yield _settled(waiting.popleft())


def _settled(promise: Promise | None) -> Verdict | None:
    return promise.result() if promise is not None else None


def audit_lines(report: JsonObject) -> Iterator[str]:
    """Yield the report as text: rates in percent with intervals by kind, then what differs."""
    names = list(report["total"])
    kinds = [] if list(report["kinds"]) == [ALL] else report["kinds"].items()
    rows = [["kind", *(f"{name} {e}" for name in names for e in ("f+", "f-"))]]
    for kind, rates in [*kinds, ("total", report["total"])]:
        cells = (rates[n][e] for n in names for e in ("false_positive", "false_negative"))
        rows.append([visible(kind), *map(_cell, cells)])
    yield from table_lines(rows)
    yield ""
    for name in names:
        said = report["verdicts"][name] | {"not asked": report["num_not_asked"][name]}
        verdicts = ", ".join(f"{count:,} {v}" for v, count in sorted(said.items()) if count)
        yield f"{name}: {verdicts}; {report['seconds'][name]:.1f} s"
    shown, count = report["disagreements"], report["num_disagreements"]
    yield f"{count:,} of {report['num_pairs']:,} pairs where r1pipe disagrees with the label" + (
        f"; the first {len(shown)}:" if len(shown) < count else ":" if shown else ""
    )
    for row in shown:
        yield from _disagreement_lines(row)


def _disagreement_lines(row: JsonObject) -> Iterator[str]:
    plain = f"; math-verify: {row[PLAIN]}" if PLAIN in row else ""
    kind = f" [{visible(row['kind'])}]" if row["kind"] != ALL else ""
    yield f"  {visible(row['place'])}{kind} {row['label']}, r1pipe: {row[OURS]}{plain}"
    gold = excerpt(row["gold"], MAX_GOLD_CHARS)
    yield f"    gold: {gold}   completion: {excerpt(row['completion'], MAX_COMPLETION_CHARS)}"


def _cell(rate: Mapping[str, float]) -> str:
    if not rate["cases"]:
        return "-"
    interval = f"[{100 * rate['low']:.2f}, {100 * rate['high']:.2f}]"
    return f"{rate['errors']}/{rate['cases']} {100 * rate['rate']:.2f}% {interval}"
