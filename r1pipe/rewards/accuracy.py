"""The accuracy reward: 1 when the verifier says correct, else 0 (arXiv:2501.12948v1, 2.2.2)."""

from __future__ import annotations

from r1pipe.records import Problem, Verdict
from r1pipe.verify import verify


def accuracy(problem: Problem, text: str) -> float:
    """Return 1.0 for a correct completion; faults of the verifier earn nothing either."""
    return float(verify(problem, text) is Verdict.CORRECT)
