"""A candidate: a sampled completion with its origin, verdict and decisions.

Every candidate is kept on record. What is trained on is a view of them: those that pass every
filter and are selected (`candidates/selection.py`), as `kept` says.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa

from r1pipe.candidates.filters import decide, is_kept
from r1pipe.chat import AnyFormat, as_format
from r1pipe.keys import digest_bytes
from r1pipe.records import FinishReason, Problem, Row, Verdict
from r1pipe.settings import Keep
from r1pipe.verify import VERIFIER_VERSION

FAILED = frozenset({Verdict.GOLD_UNUSABLE, Verdict.TIMEOUT, Verdict.CRASHED, Verdict.UNJUDGED})
"""Verdicts that say nothing about the completion: such a candidate failed, and was not dropped."""

_TEXT = ("id", "problem_id", "task", "language", "format", "prompt", "gold", "completion")
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in _TEXT),
        ("num_tokens", pa.int64()),
        ("finish_reason", pa.string()),
        ("model_id", pa.string()),
        ("temperature", pa.float64()),
        ("seed", pa.int64()),
        ("verifier_version", pa.int64()),
        ("verdict", pa.string()),
        ("filters", pa.string()),
        ("kept", pa.bool_()),
    ]
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Fields that all candidates of one stage share."""

    format: AnyFormat
    temperature: float
    model_id: str
    """Artifact id of the sampling model."""
    keep: Keep


@dataclass(frozen=True, slots=True)
class Sample:
    """A sampled completion to verify: its text, without its tokens."""

    problem: Problem
    sample_index: int
    seed: int
    text: str
    num_tokens: int
    finish_reason: FinishReason


def candidate_row(sample: Sample, verdict: Verdict, origin: Origin) -> Row:
    """Return one candidate with its origin and the decision of every filter.

    It is not selected yet: `kept` only says whether it passes the filters.
    """
    problem = sample.problem
    decisions = decide(
        problem, sample.text, sample.finish_reason, verdict, origin.keep, origin.format
    )
    return {
        "id": candidate_id(problem, sample.sample_index),
        "problem_id": problem.id,
        "task": problem.task,
        "language": problem.language,
        "format": as_format(origin.format).text,
        "prompt": problem.prompt,
        "gold": problem.gold,
        "completion": sample.text,
        "num_tokens": sample.num_tokens,
        "finish_reason": sample.finish_reason.value,
        "model_id": origin.model_id,
        "temperature": float(origin.temperature),
        "seed": sample.seed,
        "verifier_version": VERIFIER_VERSION,
        "verdict": str(verdict),
        "filters": _written(tuple(decisions.items())),
        "kept": is_kept(decisions),
    }


@lru_cache(maxsize=256)  # most candidates are decided alike
def _written(decisions: tuple[tuple[str, bool], ...]) -> str:
    return json.dumps(dict(decisions), sort_keys=True)


def candidate_id(problem: Problem, sample_index: int) -> str:
    """Return a candidate's id, unique in its stage."""
    return f"{problem.id}#{sample_index}"


def identity(row: Row) -> bytes:
    """Return 16 bytes of a digest of prompt and completion, equal for exact duplicates."""
    prompt, completion = row["prompt"], row["completion"]
    return bytes.fromhex(digest_bytes(f"{len(prompt)}:{prompt}{completion}".encode())[:32])


def reason_dropped(row: Row) -> str:
    """Return the first decision against a candidate that is not kept: `dropped_<filter>`, or
    `failed_<verdict>` if its verdict says nothing about the completion."""
    if row["verdict"] in FAILED:
        return f"failed_{row['verdict']}"
    decisions: dict[str, bool] = json.loads(row["filters"])
    return f"dropped_{next(name for name, passed in decisions.items() if not passed)}"
