"""Cases to verify, from a data file: the debugging tool of `r1pipe verify`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from r1pipe.errors import SourceError, StageError
from r1pipe.files import BrokenRow, Record, records_or_faults
from r1pipe.keys import Json, JsonObject
from r1pipe.records import Problem
from r1pipe.sandbox.runners import is_runnable
from r1pipe.sandbox.strength import require
from r1pipe.text import did_you_mean, visible
from r1pipe.verify import countdown
from r1pipe.verify.checkers import CHECKERS, Verification, verify_one, verify_stream
from r1pipe.verify.code import language_of
from r1pipe.verify.reading.extract import find_answer
from r1pipe.verify.workers.pool import DEFAULT_LIMIT_S

TASK_CHECKERS = {"arithmetic": "number", "parity": "word", "gsm8k": "number"}
"""Tasks whose checker has another name; the other tasks that a case may have are checkers."""

GOLDLESS = ("code", "countdown", "refusal")
"""Checkers that need no gold answer: what is right stands in other columns."""
BATCH = 512
"""Cases of a file that are verified together."""
MAX_SAID, MAX_S = 120, 600.0

_META = (
    *("numbers", "target", "options", "accept", "reject", "refusal", "tests", "calls"),
    *("wall_s", "language", "tolerance"),
)
_LISTS = {
    "numbers": (int | float | str, "numbers"),
    "options": (str, "texts"),
    "accept": (str, "texts"),
    "reject": (str, "texts"),
    "refusal": (str, "texts"),
    "tests": (Mapping, "objects with input and output"),
    "calls": (Mapping, "objects with call and expected"),
}
"""Columns that are lists, and of what."""


def verify_answer(gold: str, answer: str, *, timeout_s: float = DEFAULT_LIMIT_S) -> Verification:
    """Verify an answer given on the command line: a whole completion, or the bare answer."""
    return verify_one(Problem("1", "math", "", gold), as_completion(answer), timeout_s=timeout_s)


def as_completion(answer: str) -> str:
    """Return a bare answer in a box; a text that already says where its answer is, as it is."""
    is_bare = find_answer(answer).method == "none" and "<think>" not in answer
    return f"\\boxed{{{answer}}}" if is_bare and answer.strip() else answer


def verify_file(path: Path, *, jobs: int = 0) -> Iterator[JsonObject]:
    """Verify the cases of a file (`case_problem`); yield a result for every row, in order.

    A result has `id` (the row's number by default), `verdict`, `extracted`, `method` and `ms`. A
    row that is no case does not end it: its result has `id` and `error`, which says where and what
    is wrong. Raises SourceError if the file is missing or has no rows, and StageError where a
    case is a program and the sandbox lacks a layer.
    """
    rows = records_or_faults(path)
    while batch := list(islice(rows, BATCH)):
        cases = [_case_or_fault(row) for row in batch]
        good = [case for case in cases if isinstance(case, Case)]
        if any(case.problem.checker == "code" for case in good):
            require()
        pairs = ((case.problem, case.completion) for case in good if case.needs_pool)
        settled = verify_stream(pairs, workers=jobs)
        for case in cases:
            if isinstance(case, Case):
                yield case.verified(settled)
            else:
                yield case


@dataclass(frozen=True, slots=True)
class Case:
    """One case of a file."""

    id: object
    place: str
    problem: Problem
    completion: str

    @property
    def needs_pool(self) -> bool:
        """Whether it is verified beside others, by workers whose every fault is a verdict."""
        if self.problem.checker == "code":
            return is_runnable(language_of(self.problem))
        return self.problem.checker == "math"

    def verified(self, settled: Iterator[Verification]) -> JsonObject:
        """Return its result; `settled` are those of cases that need the pool."""
        try:
            found = next(settled) if self.needs_pool else verify_one(self.problem, self.completion)
        except Exception as error:  # noqa: BLE001 - a case of a stranger, and the next one follows
            said = f"{type(error).__name__}: {error}".splitlines()[0][:MAX_SAID]
            return {"id": self.id, "error": f"{self.place}: it cannot be verified: {said}"}
        return {"id": self.id, **verification_row(found)}


def _case_or_fault(row: Record | SourceError) -> Case | JsonObject:
    if isinstance(row, SourceError):
        place = f"{row.place}: {row.said}" if isinstance(row, BrokenRow) else str(row)
        return {"id": row.row if isinstance(row, BrokenRow) else None, "error": place}
    case_id = row.values.get("id", row.row)
    try:
        problem = case_problem(row)
        if problem.checker not in GOLDLESS and not problem.gold.strip():
            shown = str(row.values["gold"])[:MAX_SAID]
            raise StageError(f"{row.place}: no gold answer, but {shown!r}; give the right answer")
    except StageError as error:
        return {"id": case_id, "error": visible(str(error))}
    return Case(case_id, row.place, problem, row.values["completion"])


def verification_row(verification: Verification) -> dict[str, object]:
    """Return a verification as plain JSON values."""
    return {
        "verdict": verification.verdict.value,
        "extracted": verification.extracted,
        "method": verification.method,
        "ms": round(verification.ms, 3),
    }


def case_problem(case: Record) -> Problem:
    """Return the problem of a row with `gold` and `completion`.

    Optional columns: `task` (a task or checker; math by default), and what its checker needs, such
    as `numbers` and `target`, `options`, `accept`, `reject`, `refusal` or `tests`. Raises
    StageError, with the row's place, for what is missing or cannot be read.
    """
    row = case.values
    missing = [name for name in ("gold", "completion") if name not in row]
    if missing:
        raise StageError(f"{case.place}: {' and '.join(missing)} missing; each case needs both")
    if not isinstance(row["completion"], str):
        raise StageError(f"{case.place}: the completion is no text; give what the model wrote")
    task = row.get("task", "math")
    checker = TASK_CHECKERS.get(task, task) if isinstance(task, str) else None
    if checker not in CHECKERS:
        hint = did_you_mean(str(task), [*CHECKERS, *TASK_CHECKERS])
        raise StageError(f"{case.place}: unknown task {task!r}; {hint}; without one it is math")
    meta = {name: row[name] for name in _META if name in row}
    if checker == "countdown" and not {"numbers", "target"} <= meta.keys():
        raise StageError(f"{case.place}: a countdown case needs numbers and target")
    _check_meta(case.place, meta)
    return Problem(
        str(row.get("id", "")), str(task), "", _gold(row["gold"]), "en", checker, meta=meta
    )


def _check_meta(place: str, meta: Mapping[str, Json]) -> None:
    """Raise StageError for a column that its checker cannot read."""
    for name, value in meta.items():
        if name in _LISTS:
            kind, words = _LISTS[name]
            if not isinstance(value, list) or not all(isinstance(each, kind) for each in value):
                raise StageError(f"{place}: {name} should be a list of {words}")
        numbers = value if name == "numbers" and isinstance(value, list) else []
        for number in [value] if name == "target" else numbers:
            try:
                countdown.exact(number)
            except ValueError:
                raise StageError(f"{place}: {name} should be plain numbers of few digits") from None
    wall_s = meta.get("wall_s", 1.0)
    if isinstance(wall_s, bool) or not isinstance(wall_s, int | float) or not 0 < wall_s <= MAX_S:
        raise StageError(f"{place}: wall_s should be seconds, above 0 and at most {MAX_S:g}")


def _gold(value: object) -> str:
    """Return a gold answer as text: "", which no checker can use, for null, lists, NaN and such."""
    if isinstance(value, float):
        return str(value) if math.isfinite(value) else ""
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
