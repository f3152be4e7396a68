"""The code checker: unit tests in a sandbox, with their expected results kept outside it.

`meta["tests"]` is a list of {"input", "output"} for programs that read stdin and print; with
`files` and `output_files` ({name: text}) also for those that read and write files.
`meta["calls"]` is a list of {"call", "expected"} for Python functions; `expected` is a JSON value.
All must pass. Output is compared whole: as many lines, each equal but for spaces at its end; with
`meta["tolerance"]` numbers may differ by that much, absolutely or relatively.
`meta["wall_s"]` sets the time for each run, and `meta["language"]` names one of `RUNNERS`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from r1pipe.chat import split_completion
from r1pipe.errors import StageError
from r1pipe.keys import Json
from r1pipe.records import Problem, Verdict
from r1pipe.sandbox.pool import shared
from r1pipe.sandbox.runners import BINARY, RUNNERS, is_runnable
from r1pipe.sandbox.sandbox import compile_program, run_binary, run_python
from r1pipe.sandbox.session import Limits, Outcome, Sandbox, Status
from r1pipe.sandbox.strength import Strength, require, using, weakness
from r1pipe.stage import Context
from r1pipe.verify.workers.pool import Promise

MAX_PROGRAM_CHARS = 100_000
MAX_NUMBER = 60.0
"""Largest `wall_s` and `tolerance`."""
_FENCE = re.compile(r"^[ \t]{0,3}```[ \t]*([a-zA-Z0-9+_-]{0,20})[^\n]{0,40}$", re.MULTILINE)
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


def check(problem: Problem, text: str) -> Verdict:
    """Verify a completion by running its last program against every test."""
    return start(problem, text).result()


def start(problem: Problem, text: str) -> Promise:
    """Verify a completion in a thread of the sandboxes' pool; what needs no run is there at once.

    Raises StageError where the sandbox lacks a layer and a weak one was not asked for, or where the
    language's compiler is not installed.
    """
    promise = Promise()
    tests = read_tests(problem.meta)
    if tests is None:
        promise.set_result(Verdict.GOLD_UNUSABLE)
        return promise
    program = extract_program(text, tests.language)
    if program is None or len(program) > MAX_PROGRAM_CHARS:
        promise.set_result(Verdict.NO_ANSWER if program is None else Verdict.WRONG)
        return promise
    if not is_runnable(tests.language):
        raise StageError(
            f"problem {problem.id}: programs in {tests.language} need"
            f" {RUNNERS[tests.language].compiler}, which is not on PATH; install it"
        )
    require()
    shared().submit(partial(_settle, promise, tests, program))
    return promise


@contextmanager
def sandboxed(context: Context, strength: Strength, problems: Iterable[Problem]) -> Iterator[None]:
    """Run programs as `run.sandbox` says in a block; refuse, or warn, before it begins."""
    with using(strength):
        if any(problem.checker == "code" for problem in problems) and (lost := weakness()):
            context.warn(f"run.sandbox is weak, and this machine lacks: {lost}")
        yield


def _settle(promise: Promise, tests: Tests, program: str) -> None:
    try:
        with shared().taken() as sandbox:
            verdict, promise.elapsed_s = _run(tests, program, sandbox)
    except Exception as error:  # noqa: BLE001 - whoever waits for the verdict raises it
        promise.set_exception(error)
    else:
        promise.set_result(verdict)


def _run(tests: Tests, program: str, sandbox: Sandbox) -> tuple[Verdict, float]:
    """Run every test up to the first that fails; return the verdict and the seconds it took."""
    seconds, binary = 0.0, b""
    if tests.language != "python":
        compiled = compile_program(tests.language, program, sandbox=sandbox)
        seconds, binary = compiled.wall_s, compiled.files.get(BINARY, b"")
        if compiled.status is not Status.OK or not binary:
            return _fault(compiled), seconds
    for test in tests.tests:
        outcome = _one(tests, test, program, binary, sandbox)
        seconds += outcome.wall_s
        if outcome.status is not Status.OK or not _passes(outcome, test, tests.tolerance):
            return _fault(outcome), seconds
    if tests.calls:
        outcome = run_python(program, calls=tests.calls, limits=tests.limits, sandbox=sandbox)
        seconds += outcome.wall_s
        values: Json = list(outcome.values)
        is_right = same_json(values, list(tests.expected), tests.tolerance)
        if outcome.status is not Status.OK or not is_right:
            return _fault(outcome), seconds
    return Verdict.CORRECT, seconds


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


def _fault(outcome: Outcome) -> Verdict:
    """Return the verdict on a program that did not pass."""
    faults = {Status.TIMEOUT: Verdict.TIMEOUT, Status.CRASHED: Verdict.CRASHED}
    return faults.get(outcome.status, Verdict.WRONG)


# ---- what a problem's meta says ------------------------------------------------------------------


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


def extract_program(text: str, language: str = "python") -> str | None:
    """Return the last closed block of a language after the last thought; without one, None."""
    part = split_completion(text).answer_part
    if part is None:
        return None
    program = None
    opened: tuple[int, str] | None = None
    fences = RUNNERS[language].fences
    for fence in _FENCE.finditer(part):
        if opened is None:
            opened = fence.end() + 1, fence.group(1).lower()
        elif not fence.group(1):
            block = part[opened[0] : fence.start()]
            if opened[1] in fences and block.strip():
                program = block
            opened = None
    return program


def language_of(problem: Problem) -> str:
    """Return the language that a problem asks for; Python where it says none that we know."""
    language = problem.meta.get("language", "python")
    return language if isinstance(language, str) and language in RUNNERS else "python"


# ---- comparing -----------------------------------------------------------------------------------


def _passes(outcome: Outcome, test: Test, tolerance: float) -> bool:
    if not same_text(outcome.stdout, test.stdout, tolerance):
        return False
    written = {name: data.decode("utf-8", "replace") for name, data in outcome.files.items()}
    return all(
        name in written and same_text(written[name], text, tolerance)
        for name, text in test.output_files.items()
    )


def same_text(output: str, expected: str, tolerance: float = 0.0) -> bool:
    """Compare outputs line by line; with a tolerance word by word, numbers by their values."""
    ours, theirs = lines_of(output), lines_of(expected)
    if not tolerance or ours == theirs:
        return ours == theirs
    return len(ours) == len(theirs) and all(
        len(a) == len(b) and all(_same_word(x, y, tolerance) for x, y in zip(a, b, strict=True))
        for a, b in zip(map(str.split, ours), map(str.split, theirs), strict=True)
    )


def _same_word(word: str, expected: str, tolerance: float) -> bool:
    if word == expected:
        return True
    try:
        values = float(word), float(expected)
    except ValueError:
        return False
    return "_" not in word and math.isclose(*values, rel_tol=tolerance, abs_tol=tolerance)


def same_json(value: Json, expected: Json, tolerance: float = 0.0) -> bool:
    """Compare JSON values with their types: True is not 1. Numbers may differ by the tolerance."""
    if isinstance(value, list) and isinstance(expected, list):
        return len(value) == len(expected) and all(
            same_json(a, b, tolerance) for a, b in zip(value, expected, strict=True)
        )
    if isinstance(value, dict) and isinstance(expected, dict):
        return value.keys() == expected.keys() and all(
            same_json(value[key], expected[key], tolerance) for key in value
        )
    if isinstance(value, bool) or isinstance(expected, bool):
        return value is expected
    if tolerance and isinstance(value, int | float) and isinstance(expected, int | float):
        try:
            return math.isclose(value, expected, rel_tol=tolerance, abs_tol=tolerance)
        except OverflowError:
            return value == expected
    return bool(value == expected)


def lines_of(output: str) -> list[str]:
    """Return the lines of an output without spaces at their ends and empty lines at its end."""
    return [line.rstrip() for line in output.rstrip().splitlines()]
