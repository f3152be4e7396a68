"""The code checker: unit tests in a sandbox, with their expected results kept outside it.

What a problem's `meta` says of them: `r1pipe.sandbox.tests`. All must pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from r1pipe.chat import split_completion
from r1pipe.errors import StageError
from r1pipe.records import Problem, Verdict
from r1pipe.sandbox.pool import shared
from r1pipe.sandbox.runners import RUNNERS, is_runnable
from r1pipe.sandbox.session import Status
from r1pipe.sandbox.strength import Strength, require, using, weakness
from r1pipe.sandbox.tests import Tests, read_tests, run_tests
from r1pipe.stage import Context
from r1pipe.verify.workers.pool import Promise

MAX_PROGRAM_CHARS = 100_000
_FENCE = re.compile(r"^[ \t]{0,3}```[ \t]*([a-zA-Z0-9+_-]{0,20})[^\n]{0,40}$", re.MULTILINE)
_FAULTS = {
    None: Verdict.CORRECT,
    Status.TIMEOUT: Verdict.TIMEOUT,
    Status.CRASHED: Verdict.CRASHED,
}
"""How the first test that fails ended -> the verdict; anything else is wrong."""


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
            status, promise.elapsed_s = run_tests(tests, program, sandbox)
    except Exception as error:  # noqa: BLE001 - whoever waits for the verdict raises it
        promise.set_exception(error)
    else:
        promise.set_result(_FAULTS.get(status, Verdict.WRONG))


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
