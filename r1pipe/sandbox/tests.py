"""Tests of programs: read from a problem's `meta`, and run in a sandbox.

`meta["tests"]` is a list of {"input", "output"} for programs that read stdin and print; with
`files` and `output_files` ({name: text}) also for those that read and write files.
`meta["calls"]` is a list of {"call", "expected"} for Python functions; `expected` is a JSON value.
Output is compared whole: as many lines, each equal but for spaces at its end; with
`meta["tolerance"]` numbers may differ by that much, absolutely or relatively.
`meta["wall_s"]` sets the time for each run, and `meta["language"]` names one of `RUNNERS`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from r1pipe.keys import Json
from r1pipe.sandbox.outputs import same_json, same_text
from r1pipe.sandbox.runners import BINARY, RUNNERS
from r1pipe.sandbox.sandbox import compile_program, run_binary, run_python
from r1pipe.sandbox.session import Limits, Outcome, Sandbox, Status

MAX_NUMBER = 60.0
"""Largest `wall_s` and `tolerance`."""
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class Test:
    """One run of a program: what it is given, and what it must give."""

    stdin: str
    stdout: str
    files: Mapping[str, bytes]
    output_files: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Tests:
    """All tests of a problem, read from its `meta`."""

    language: str
    tests: list[Test]
    calls: list[str]
    expected: list[Json]
    limits: Limits
    tolerance: float


def read_tests(meta: Mapping[str, Any]) -> Tests | None:
    """Return a problem's tests; None where there are none, or where they cannot be read."""
    tests, calls = meta.get("tests") or [], meta.get("calls") or []
    language, wall_s = meta.get("language", "python"), meta.get("wall_s", Limits().wall_s)
    tolerance = meta.get("tolerance", 0.0)
    if not isinstance(tests, list | tuple) or not isinstance(calls, list | tuple):
        return None
    numbers = all(_is_number(value) for value in (wall_s, tolerance))
    if not (tests or calls) or not isinstance(language, str) or language not in RUNNERS:
        return None
    if not numbers or (calls and language != "python"):
        return None
    read = [_read_test(test) for test in tests]
    found = [test for test in read if test is not None]
    is_whole = all(
        isinstance(c, Mapping) and isinstance(c.get("call"), str) and "expected" in c for c in calls
    )
    if len(found) < len(read) or not is_whole:
        return None
    limits = replace(Limits(), wall_s=float(wall_s), cpu_s=max(1, math.ceil(wall_s)))
    if language != "python":
        limits = replace(limits, memory_bytes=RUNNERS[language].memory_bytes)
    return Tests(
        language,
        found,
        [call["call"] for call in calls],
        [call["expected"] for call in calls],
        limits,
        float(tolerance),
    )


def _read_test(test: object) -> Test | None:
    if not isinstance(test, Mapping):
        return None
    stdin, stdout = test.get("input", "" if test.get("files") else None), test.get("output")
    files, output_files = test.get("files", {}), test.get("output_files", {})
    if stdout is None and output_files:
        stdout = ""
    if not isinstance(stdin, str) or not isinstance(stdout, str):
        return None
    for each in (files, output_files):
        if not isinstance(each, Mapping) or not all(
            isinstance(name, str) and _FILE_NAME.fullmatch(name) and isinstance(value, str)
            for name, value in each.items()
        ):
            return None
    given = {name: text.encode("utf-8", "replace") for name, text in files.items()}
    return Test(stdin, stdout, given, dict(output_files))


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value <= MAX_NUMBER


def run_tests(tests: Tests, program: str, sandbox: Sandbox) -> tuple[Status | None, float]:
    """Run every test up to the first that fails; return how that one ended, and the seconds.

    None is for a program that passes; one that ends well with another output has `Status.OK`.
    """
    seconds, binary = 0.0, b""
    if tests.language != "python":
        compiled = compile_program(tests.language, program, sandbox=sandbox)
        seconds, binary = compiled.wall_s, compiled.files.get(BINARY, b"")
        if compiled.status is not Status.OK or not binary:
            return compiled.status if compiled.status is not Status.OK else Status.FAILED, seconds
    for test in tests.tests:
        outcome = _one(tests, test, program, binary, sandbox)
        seconds += outcome.wall_s
        if outcome.status is not Status.OK or not _passes(outcome, test, tests.tolerance):
            return outcome.status, seconds
    if tests.calls:
        outcome = run_python(program, calls=tests.calls, limits=tests.limits, sandbox=sandbox)
        seconds += outcome.wall_s
        values: Json = list(outcome.values)
        is_right = same_json(values, list(tests.expected), tests.tolerance)
        if outcome.status is not Status.OK or not is_right:
            return outcome.status, seconds
    return None, seconds


def _one(tests: Tests, test: Test, program: str, binary: bytes, sandbox: Sandbox) -> Outcome:
    fetch = tuple(test.output_files)
    if tests.language == "python":
        return run_python(
            program, test.stdin, limits=tests.limits, files=test.files, fetch=fetch, sandbox=sandbox
        )
    return run_binary(
        RUNNERS[tests.language],
        binary,
        test.stdin,
        limits=tests.limits,
        files=test.files,
        fetch=fetch,
        sandbox=sandbox,
    )


def _passes(outcome: Outcome, test: Test, tolerance: float) -> bool:
    if not same_text(outcome.stdout, test.stdout, tolerance):
        return False
    written = {name: data.decode("utf-8", "replace") for name, data in outcome.files.items()}
    return all(
        name in written and same_text(written[name], text, tolerance)
        for name, text in test.output_files.items()
    )
