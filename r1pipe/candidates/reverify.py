"""Candidates verified again: which of them are kept then, and which verdicts flipped.

All of it streams: in memory are the pairs in flight, a unit of verdicts, one shard, and sixteen
bytes per kept row. Verdicts go into a journal, so that a killed run verifies no candidate twice.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from r1pipe.candidates.filters import decide
from r1pipe.candidates.quotas import Quotas
from r1pipe.candidates.rejudge import check_quota, with_problems, with_verdict
from r1pipe.candidates.selection import SELECTION, Selection
from r1pipe.records import FinishReason, Problem, Row, Verdict
from r1pipe.rows import write_rows
from r1pipe.settings import Keep
from r1pipe.stage import Journal
from r1pipe.verify import VERIFIER_VERSION, verify_stream
from r1pipe.verify.reading.recast import recast

MAX_EXAMPLES = 5
"""Examples of each kind of flip in the report; all flips are rows beside it."""
MAX_EXAMPLE_CHARS = 2_000
KEPT_TO_DROPPED, DROPPED_TO_KEPT = "kept -> dropped", "dropped -> kept"
STILL_DROPPED = "dropped, for another reason"


@dataclass(frozen=True)
class ReverifySettings:
    """Settings for verifying candidates again."""

    keep: Keep | None
    """Thresholds to decide all filters again; None decides only the verdict's again."""
    quotas: Quotas | None
    """None if unknown."""
    target_rows: int | None
    timeout_s: float
    workers: int
    rows_per_unit: int
    """Verdicts of one unit of the journal: what a kill costs at most, but for what is in flight."""


def reverified(
    name: str,
    rows: Iterable[Row],
    problems: Mapping[str, Problem],
    journal: Journal,
    terms: ReverifySettings,
) -> Iterator[Row]:
    """Yield each candidate, in order, with the present verifier's verdict and the new decisions.

    Repeats, quotas and the target are decided again, since they depend on what is kept before.
    Raises StageError for a candidate whose problem is not there, and for one that a quota ruled out
    if the quotas are unknown.
    """
    selection = Selection(terms.quotas or Quotas(), terms.target_rows or sys.maxsize)
    pairs = with_problems(name, rows, problems)
    for row, problem, verdict, extracted in _with_verdicts(pairs, journal, terms):
        check_quota(name, row, terms.quotas)
        if verdict is Verdict.UNJUDGED:
            verdict = Verdict(row["verdict"])  # no rule decides it: an LLM judge's stays
        keep, decided = terms.keep, dict[str, bool]()
        if keep is not None:
            reason = FinishReason(row["finish_reason"])
            decided = decide(problem, row["completion"], reason, verdict, keep, row["format"])
        verified = with_verdict(row, verdict, decided) | {"verifier_version": VERIFIER_VERSION}
        if "extracted" in row:
            verified["extracted"] = extracted
        selection.select(verified, problem)
        yield verified


def _with_verdicts(
    candidates: Iterator[tuple[Row, Problem]], journal: Journal, terms: ReverifySettings
) -> Iterator[tuple[Row, Problem, Verdict, str | None]]:
    """Yield candidates with their verdicts: those in the journal, then the others as they are
    verified and journaled."""
    done = journal.done()
    for unit in range(len(done)):
        for line in journal.lines(str(unit)).splitlines():
            entry, (row, problem) = json.loads(line), next(candidates)
            assert entry["id"] == row["id"], f"unit {unit} is of other candidates"
            yield row, problem, Verdict(entry["verdict"]), entry.get("extracted")
    waiting: deque[tuple[Row, Problem]] = deque()

    def pairs() -> Iterator[tuple[Problem, str]]:
        for row, problem in candidates:
            waiting.append((row, problem))
            yield problem, recast(row["completion"], row["format"])

    units, verdicts = count(len(done)), []
    for verification in verify_stream(pairs(), timeout_s=terms.timeout_s, workers=terms.workers):
        row, problem = waiting.popleft()
        verdict, extracted = verification.verdict, verification.extracted
        extraction = {"extracted": extracted} if "extracted" in row else {}
        verdicts.append({"id": row["id"], "verdict": str(verdict), **extraction})
        if len(verdicts) == terms.rows_per_unit:
            journal.append(str(next(units)), verdicts)
            verdicts = []
        yield row, problem, verdict, extracted


def report_flips(before: Iterable[Row], after: Iterable[Row], folder: Path) -> dict[str, object]:
    """Compare two verdicts on the same candidates; write every flip as a row, and flips.json.

    The report counts each direction by kind (the decision that changed) and by task.
    """
    report = _Report()
    flips = (flip for old, new in zip(before, after, strict=True) if (flip := report.add(old, new)))
    write_rows(folder, flips)
    document = report.document()
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / "flips.json").write_text(text + "\n", encoding="utf-8")
    return document


class _Report:
    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self.verifiers: Counter[str] = Counter()
        self.verdicts: Counter[str] = Counter()
        self.kinds: dict[str, Counter[str]] = {}
        self.tasks: dict[str, Counter[str]] = {}
        self.examples: dict[str, list[Row]] = {}

    def add(self, old: Row, new: Row) -> Row | None:
        """Count one candidate; return a row for it if a verdict or a decision changed."""
        assert old["id"] == new["id"], "both sides list the same candidates in the same order"
        self.totals.update(candidates=1, kept_before=int(old["kept"]), kept_after=int(new["kept"]))
        self.verifiers[str(old["verifier_version"])] += 1
        if (old["verdict"], old["filters"]) == (new["verdict"], new["filters"]):
            return None
        if old["verdict"] != new["verdict"]:
            self.verdicts[f"{old['verdict']} -> {new['verdict']}"] += 1
        direction, kind = _direction(old, new), _kind(old, new)
        self.kinds.setdefault(direction, Counter())[kind] += 1
        self.tasks.setdefault(direction, Counter())[old["task"]] += 1
        flip = _flip_row(old, new, direction, kind)
        examples = self.examples.setdefault(f"{direction}: {kind}", [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(_shortened(flip))
        return flip

    def document(self) -> dict[str, object]:
        return {
            **{name: self.totals[name] for name in ("candidates", "kept_before", "kept_after")},
            "kept_to_dropped": sum(self.kinds.get(KEPT_TO_DROPPED, Counter()).values()),
            "dropped_to_kept": sum(self.kinds.get(DROPPED_TO_KEPT, Counter()).values()),
            "verifier_before": dict(self.verifiers),
            "verifier_after": VERIFIER_VERSION,
            "verdicts_changed": dict(self.verdicts),
            "kinds": {name: dict(counts) for name, counts in self.kinds.items()},
            "tasks": {name: dict(counts) for name, counts in self.tasks.items()},
            "examples": self.examples,
        }


def _direction(old: Row, new: Row) -> str:
    if old["kept"] == new["kept"]:
        return STILL_DROPPED if not new["kept"] else "kept, decided otherwise"
    return KEPT_TO_DROPPED if old["kept"] else DROPPED_TO_KEPT


def _kind(old: Row, new: Row) -> str:
    """Name the decision that changed: the verdict, another filter, or else the selection."""
    if old["verdict"] != new["verdict"]:
        return f"verdict {old['verdict']} -> {new['verdict']}"
    words = {True: "passed", False: "failed", None: "not asked"}
    was, now = json.loads(old["filters"]), json.loads(new["filters"])
    names = sorted({*was, *now}, key=lambda name: (name in SELECTION, name))
    name = next(name for name in names if was.get(name) != now.get(name))
    return f"{name} {words[was.get(name)]} -> {words[now.get(name)]}"


def _flip_row(old: Row, new: Row, direction: str, kind: str) -> Row:
    names = ("id", "problem_id", "task", "language", "prompt", "gold", "completion")
    return {
        **{name: old[name] for name in names},
        "direction": direction,
        "kind": kind,
        "verdict_before": old["verdict"],
        "verdict_after": new["verdict"],
        "filters_before": old["filters"],
        "filters_after": new["filters"],
        "verifier_before": old["verifier_version"],
        "verifier_after": new["verifier_version"],
    }


def _shortened(flip: Row) -> Row:
    """Return an example: the end of a long completion, which has the answer."""
    names = ("id", "task", "gold", "verdict_before", "verdict_after")
    text = flip["completion"]
    short = text if len(text) <= MAX_EXAMPLE_CHARS else f"... {text[-MAX_EXAMPLE_CHARS:]}"
    return {**{name: flip[name] for name in names}, "completion": short}
