"""Cases to verify, from JSON lines: the debugging tool of `r1pipe verify`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from r1pipe.errors import StageError
from r1pipe.keys import JsonObject
from r1pipe.records import Problem
from r1pipe.verify.answers.extract import find_answer
from r1pipe.verify.checkers import CHECKERS, Verification, verify_one, verify_stream
from r1pipe.verify.workers.pool import DEFAULT_LIMIT_S

TASK_CHECKERS = {"arithmetic": "number", "parity": "word", "gsm8k": "number"}
"""Tasks whose checker has another name; a task that names a checker uses it, others use math."""

_META = ("numbers", "target", "options", "accept", "reject", "refusal", "tests", "calls")


def verify_answer(gold: str, answer: str, *, timeout_s: float = DEFAULT_LIMIT_S) -> Verification:
    """Verify an answer given on the command line: a whole completion, or the bare answer."""
    is_bare = find_answer(answer).method == "none" and "<think>" not in answer
    completion = f"\\boxed{{{answer}}}" if is_bare and answer.strip() else answer
    return verify_one(Problem("1", "math", "", gold), completion, timeout_s=timeout_s)


def verify_cases(
    lines: Iterable[str], *, jobs: int = 0, timeout_s: float = DEFAULT_LIMIT_S
) -> Iterator[JsonObject]:
    """Verify JSON lines with `gold` and `completion`; yield rows in order as they are done.

    Optional fields: `id` (the line's number by default), `task` (a task or checker; math by
    default), and what its checker needs: `numbers` and `target`, `options`, `accept`, `reject`,
    `refusal`. A row has `id`, `verdict`, `extracted`, `method` and `ms`.
    """
    ids: list[object] = []

    def pairs() -> Iterator[tuple[Problem, str]]:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                case = parse_case(line, number)
                ids.append(case.get("id", number))
                yield case_problem(case), case["completion"]

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


def parse_case(line: str, number: int) -> JsonObject:
    """Return the case on one line, or say what is wrong with it."""
    try:
        case = json.loads(line)
    except json.JSONDecodeError as error:
        raise StageError(
            f"line {number}, column {error.colno}: not JSON ({error.msg}); each line is one object"
            ' such as {"gold": "5", "completion": "..."}'
        ) from None
    if not isinstance(case, dict):
        raise StageError(f"line {number}: a list or value; each line is one JSON object")
    missing = [name for name in ("gold", "completion") if name not in case]
    if missing:
        raise StageError(f"line {number}: {' and '.join(missing)} missing; each case needs both")
    if not isinstance(case["completion"], str):
        raise StageError(f"line {number}: completion must be a string")
    return case


def case_problem(case: JsonObject) -> Problem:
    """Return the problem that a case describes."""
    task = str(case.get("task", "math"))
    checker = TASK_CHECKERS.get(task, task if task in CHECKERS else "math")
    meta = {name: case[name] for name in _META if name in case}
    if checker == "countdown" and not {"numbers", "target"} <= meta.keys():
        raise StageError(f"case {case.get('id', '?')}: a countdown case needs numbers and target")
    return Problem(str(case.get("id", "")), task, "", str(case["gold"]), checker=checker, meta=meta)
