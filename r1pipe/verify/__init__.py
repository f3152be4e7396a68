"""Is the answer right? Extraction, exact checkers, and a pool of killable workers for algebra.

`verify` takes one completion, `verify_many` many; `CHECKERS` is the table that `Problem.checker`
names an entry of. The package can be used alone: it loads no PyTorch and no transformers, and
sympy only in the workers. `reading/` reads answers, `comparing/` compares what was read, `workers/`
does both in a pool; each knows of those before it only.
"""

from __future__ import annotations

from r1pipe.records import Problem, Verdict
from r1pipe.verify.checkers import (
    CHECKERS,
    Verification,
    verify,
    verify_many,
    verify_one,
    verify_stream,
)
from r1pipe.verify.reading.extract import extract_answer
from r1pipe.verify.workers.pool import close_shared

VERIFIER_VERSION = 2
"""Raised whenever a verdict can change; every verified row carries it."""

__all__ = [
    "CHECKERS",
    "VERIFIER_VERSION",
    "Problem",
    "Verdict",
    "Verification",
    "close_shared",
    "extract_answer",
    "verify",
    "verify_many",
    "verify_one",
    "verify_stream",
]
