"""Candidates with a new verdict, from the verifier or an LLM judge: problems, quotas, decisions.

A verdict is one decision of several: the others stay, and those that depend on the rows kept before
(repeats, quotas, the target) are taken again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from r1pipe.candidates.filters import is_kept
from r1pipe.candidates.quotas import Quotas
from r1pipe.candidates.report import read_report, write_report
from r1pipe.candidates.selection import SELECTION
from r1pipe.errors import StageError
from r1pipe.records import Problem, Row, Verdict


def with_problems(
    name: str, rows: Iterable[Row], problems: Mapping[str, Problem]
) -> Iterator[tuple[Row, Problem]]:
    """Yield candidates with their problems; a problem has the gold answer that the candidate holds.

    Raises StageError, with the stage's `name`, for a candidate whose problem is not there.
    """
    for row in rows:
        problem = problems.get(row["problem_id"])
        if problem is None:
            raise StageError(
                f"{name}: candidate {row['id']} is of problem {row['problem_id']}, which is not"
                " in the input 'problems'; give the problems that it was sampled from"
            )
        yield row, problem if problem.gold == row["gold"] else replace(problem, gold=row["gold"])


def quotas_in_force(before: Path, after: Path, given: Quotas | None) -> Quotas | None:
    """Return the quotas given, else those that the candidates were sampled with, else None.

    The report on sampling is copied to the new candidates.
    """
    found = read_report(before)
    if found is None:
        return given
    report, own = found
    quotas = own if given is None else given
    write_report(after, report, quotas)
    return quotas


def check_quota(name: str, row: Row, quotas: Quotas | None) -> None:
    """Raise StageError for a candidate that a quota ruled out when the quotas are unknown."""
    if quotas is None and not json.loads(row["filters"]).get("quota", True):
        raise StageError(
            f"{name}: candidate {row['id']} was dropped by a quota, but its artifact does not"
            " say by which; give params.quotas"
        )


def own_decisions(row: Row) -> dict[str, bool]:
    """Return a candidate's decisions without those that depend on the rows before it."""
    decisions: dict[str, bool] = json.loads(row["filters"])
    return {name: passed for name, passed in decisions.items() if name not in SELECTION}


def with_verdict(row: Row, verdict: Verdict, decided: Mapping[str, bool]) -> Row:
    """Return a candidate with a new verdict and its other new decisions, not selected yet."""
    decisions = own_decisions(row) | {**decided, "verdict": verdict is Verdict.CORRECT}
    return {
        **row,
        "verdict": str(verdict),
        "filters": json.dumps(decisions, sort_keys=True),
        "kept": is_kept(decisions),
    }
