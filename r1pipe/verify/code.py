"""The code checker: unit tests in a sandbox, with their expected results kept outside it.

`meta["tests"]` is a list of {"input", "output"} for programs that read stdin and print, and
`meta["calls"]` one of {"call", "expected"} for functions; `expected` is a JSON value. All must
pass. Output is compared whole: as many lines, each equal but for spaces at its end.
`meta["wall_s"]` sets the time for each run.
"""

from __future__ import annotations

import re

from r1pipe.chat import split_completion
from r1pipe.keys import Json
from r1pipe.records import Problem, Verdict
from r1pipe.verify.sandbox.sandbox import Limits, Outcome, Status, run_python

MAX_PROGRAM_CHARS = 100_000
_FENCE = re.compile(r"^[ \t]{0,3}```[ \t]*([a-zA-Z0-9+_-]{0,20})[^\n]{0,40}$", re.MULTILINE)
_PYTHON = frozenset({"", "py", "python", "python3"})


def check(problem: Problem, text: str) -> Verdict:
    """Verify a completion by running its last Python block against every test."""
    tests, calls = problem.meta.get("tests", ()), problem.meta.get("calls", ())
    if not tests and not calls:
        return Verdict.GOLD_UNUSABLE
    program = extract_program(text)
    if program is None:
        return Verdict.NO_ANSWER
    if len(program) > MAX_PROGRAM_CHARS:
        return Verdict.WRONG
    limits = Limits(wall_s=float(problem.meta.get("wall_s", Limits().wall_s)))
    for test in tests:
        verdict = _check_output(run_python(program, test["input"], limits=limits), test["output"])
        if verdict is not Verdict.CORRECT:
            return verdict
    if not calls:
        return Verdict.CORRECT
    outcome = run_python(program, calls=[str(call["call"]) for call in calls], limits=limits)
    return _check_values(outcome, [call["expected"] for call in calls])


def extract_program(text: str) -> str | None:
    """Return the last closed Python block after the last thought; text without a fence is none."""
    part = split_completion(text).answer_part
    if part is None:
        return None
    program = None
    opened: tuple[int, str] | None = None
    for fence in _FENCE.finditer(part):
        if opened is None:
            opened = fence.end() + 1, fence.group(1).lower()
        elif not fence.group(1):
            block = part[opened[0] : fence.start()]
            if opened[1] in _PYTHON and block.strip():
                program = block
            opened = None
    return program


def _check_output(outcome: Outcome, expected: str) -> Verdict:
    if outcome.status is Status.TIMEOUT:
        return Verdict.TIMEOUT
    is_right = outcome.status is Status.OK and lines_of(outcome.stdout) == lines_of(expected)
    return Verdict.CORRECT if is_right else Verdict.WRONG


def _check_values(outcome: Outcome, expected: list[Json]) -> Verdict:
    if outcome.status is Status.TIMEOUT:
        return Verdict.TIMEOUT
    is_right = outcome.status is Status.OK and _same_json(outcome.values, expected)
    return Verdict.CORRECT if is_right else Verdict.WRONG


def _same_json(value: Json, expected: Json) -> bool:
    """Compare JSON values with their types: True is not 1."""
    if isinstance(value, list) and isinstance(expected, list):
        return len(value) == len(expected) and all(map(_same_json, value, expected))
    if isinstance(value, dict) and isinstance(expected, dict):
        return value.keys() == expected.keys() and all(
            _same_json(value[key], expected[key]) for key in value
        )
    if isinstance(value, bool) or isinstance(expected, bool):
        return value is expected
    return bool(value == expected)


def lines_of(output: str) -> list[str]:
    """Return the lines of an output without spaces at their ends and empty lines at its end."""
    return [line.rstrip() for line in output.rstrip().splitlines()]
