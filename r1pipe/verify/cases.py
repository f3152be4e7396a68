"""Cases to verify, from a data file: the debugging tool of `r1pipe verify`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from r1pipe.errors import StageError
from r1pipe.files import Record
from r1pipe.keys import JsonObject
from r1pipe.records import Problem
from r1pipe.verify.answers.extract import find_answer
from r1pipe.verify.checkers import CHECKERS, Verification, verify_one, verify_stream
from r1pipe.verify.workers.pool import DEFAULT_LIMIT_S

TASK_CHECKERS = {"arithmetic": "number", "parity": "word", "gsm8k": "number"}
"""Tasks whose checker has another name; the other tasks that a case may have are checkers."""

_META = (
    *("numbers", "target", "options", "accept", "reject", "refusal"),
    *("tests", "calls", "language", "tolerance", "wall_s"),
)


def verify_answer(gold: str, answer: str, *, timeout_s: float = DEFAULT_LIMIT_S) -> Verification:
    """Verify an answer given on the command line: a whole completion, or the bare answer."""
    is_bare = find_answer(answer).method == "none" and "<think>" not in answer
    completion = f"\\boxed{{{answer}}}" if is_bare and answer.strip() else answer
    return verify_one(Problem("1", "math", "", gold), completion, timeout_s=timeout_s)


def verify_cases(
    cases: Iterable[Record], *, jobs: int = 0, timeout_s: float = DEFAULT_LIMIT_S
) -> Iterator[JsonObject]:
    """Verify rows with `gold` and `completion`; yield results in order as they are done.

    Optional columns: `id` (the row's number by default), `task` (a task or checker; math by
    default), and what its checker needs: `numbers` and `target`, `options`, `accept`, `reject`,
    `refusal`. A result has `id`, `verdict`, `extracted`, `method` and `ms`.
    """
    ids: list[object] = []

    def pairs() -> Iterator[tuple[Problem, str]]:
        for case in cases:
            problem = case_problem(case)
            ids.append(case.values.get("id", case.row))
            yield problem, case.values["completion"]

    stream = verify_stream(pairs(), timeout_s=timeout_s, workers=jobs)
    for index, verification in enumerate(stream):
        case_id, ids[index] = ids[index], None
        yield {"id": case_id, **verification_row(verification)}


def verification_row(verification: Verification) -> dict[str, object]:
    """Return a verification as plain JSON values."""
    return {
        "verdict": verification.verdict.value,
        "extracted": verification.extracted,
        "method": verification.method,
        "ms": round(verification.ms, 3),
    }


def case_problem(case: Record) -> Problem:
    """Return the problem that a case describes, or say what is wrong with the case."""
    row = case.values
    missing = [name for name in ("gold", "completion") if name not in row]
    if missing:
        raise StageError(f"{case.place}: {' and '.join(missing)} missing; each case needs both")
    if not isinstance(row["completion"], str):
        raise StageError(f"{case.place}: the completion is no text; give what the model wrote")
    task = row.get("task", "math")
    checker = TASK_CHECKERS.get(task, task) if isinstance(task, str) else None
    if checker not in CHECKERS:
        known = [*CHECKERS, *TASK_CHECKERS]
        close = get_close_matches(str(task), known, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
        raise StageError(f"{case.place}: unknown task {task!r}; {hint} Without one it is math")
    meta = {name: row[name] for name in _META if name in row}
    if checker == "countdown" and not {"numbers", "target"} <= meta.keys():
        raise StageError(f"{case.place}: a countdown case needs numbers and target")
    return Problem(
        str(row.get("id", "")), str(task), "", _gold(row["gold"]), "en", checker, meta=meta
    )


def _gold(value: object) -> str:
    """Return a gold answer as text: "", which no checker can use, for null, lists, NaN and such."""
    if isinstance(value, float):
        return str(value) if math.isfinite(value) else ""
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
