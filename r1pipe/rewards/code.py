"""The code reward: 1 when the program passes every unit test in the sandbox, else 0."""

from __future__ import annotations

from r1pipe.records import Problem, Verdict
from r1pipe.verify.code import check


def code(problem: Problem, text: str) -> float:
    """Return 1.0 when every test passes; a share of them would pay for special cases."""
    return float(check(problem, text) is Verdict.CORRECT)
