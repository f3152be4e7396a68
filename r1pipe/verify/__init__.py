"""Is the answer right? Extraction, exact checkers, and a pool of killable workers for algebra.

`verify` judges one completion, `verify_many` many; `CHECKERS` is the table that `Problem.checker`
names an entry of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass

from r1pipe.errors import StageError
from r1pipe.records import Problem, Verdict
from r1pipe.verify import countdown, phrases
from r1pipe.verify.equivalence import MAX_GOLD_CHARS, decide, read_gold
from r1pipe.verify.extract import extract_answer, find_answer
from r1pipe.verify.numbers import parse_plain_quantity, parse_quantity, same_quantity
from r1pipe.verify.pool import DEFAULT_LIMIT_S, close_shared, shared_pool

VERIFIER_VERSION = 1
"""Raised whenever a verdict can change; every verified row carries it."""

Checker = Callable[[Problem, str], Verdict]


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict with what it was reached on: the answer, where it stood, and the layer."""

    verdict: Verdict
    extracted: str | None
    method: str
    """`box`, `tag`, `hash`, `phrase` or `none`, then `exact` or `symbolic` behind a slash."""


def check_number(problem: Problem, text: str) -> Verdict:
    """Judge a numeric answer by exact rationals, in microseconds, with no algebra."""
    gold = read_gold(problem.gold)[1]
    if gold is None:
        return Verdict.GOLD_UNUSABLE
    found = find_answer(text)
    if found.answer is None:
        return Verdict.NO_ANSWER
    if found.is_hedge:
        return Verdict.WRONG
    given = parse_quantity(found.answer)
    is_right = given is not None and same_quantity(gold, given)
    return Verdict.CORRECT if is_right else Verdict.WRONG


def check_math(problem: Problem, text: str) -> Verdict:
    """Judge any mathematical answer: exactly where that decides, else by algebra in a worker."""
    return judge(problem, text).verdict


CHECKERS: dict[str, Checker] = {
    "choice": phrases.check_choice,
    "contains": phrases.check_contains,
    "countdown": countdown.check,
    "math": check_math,
    "number": check_number,
    "refusal": phrases.check_refusal,
    "word": phrases.check_word,
}


def verify(problem: Problem, text: str) -> Verdict:
    """Judge one completion by the problem's own checker."""
    return _checker(problem)(problem, text)


def judge(problem: Problem, text: str, *, timeout_s: float = DEFAULT_LIMIT_S) -> Judgement:
    """Judge one completion and say what was extracted and which layer decided."""
    pending = _start(problem, text, timeout_s, 0, {})
    return _settle(pending)


def verify_many(
    pairs: Iterable[tuple[Problem, str]], *, timeout_s: float = DEFAULT_LIMIT_S, workers: int = 0
) -> list[Verdict]:
    """Judge many completions, in order.

    Cheap checkers run in this process. Pairs that need algebra go to the pool (`workers` of them;
    0 means two), which starts at the first such pair; equal pairs are judged once.
    """
    asked: dict[tuple[str, str], Future[Verdict]] = {}
    pending = [_start(problem, text, timeout_s, workers, asked) for problem, text in pairs]
    return [_settle(item).verdict for item in pending]


@dataclass(frozen=True, slots=True)
class _Pending:
    verdict: Verdict | Future[Verdict]
    extracted: str | None
    method: str


def _start(
    problem: Problem,
    text: str,
    timeout_s: float,
    workers: int,
    asked: dict[tuple[str, str], Future[Verdict]],
) -> _Pending:
    """Judge a pair here, or send it to the pool and return the promise."""
    if problem.checker != "math":
        found = find_answer(text, prefer="tag" if problem.checker == "countdown" else "box")
        return _Pending(_checker(problem)(problem, text), found.answer, f"{found.method}/exact")
    found = find_answer(text)
    exact = f"{found.method}/exact"
    if not read_gold(problem.gold)[0] or len(problem.gold) > MAX_GOLD_CHARS:
        return _Pending(Verdict.GOLD_UNUSABLE, found.answer, exact)
    if found.answer is None:
        return _Pending(Verdict.NO_ANSWER, None, exact)
    decided = False if found.is_hedge else decide(problem.gold, found.answer)
    if decided is not None:
        return _Pending(Verdict.CORRECT if decided else Verdict.WRONG, found.answer, exact)
    key = (problem.gold, found.answer)
    if key not in asked:
        asked[key] = shared_pool(workers).submit(*key, timeout_s)
    return _Pending(asked[key], found.answer, f"{found.method}/symbolic")


def _settle(pending: _Pending) -> Judgement:
    verdict = pending.verdict
    if isinstance(verdict, Future):
        verdict = verdict.result()
    return Judgement(verdict, pending.extracted, pending.method)


def _checker(problem: Problem) -> Checker:
    checker = CHECKERS.get(problem.checker)
    if checker is None:
        known = ", ".join(sorted(CHECKERS))
        raise StageError(
            f"problem {problem.id}: no checker is called {problem.checker!r}; choose one of {known}"
        )
    return checker


__all__ = [
    "CHECKERS",
    "VERIFIER_VERSION",
    "Judgement",
    "close_shared",
    "extract_answer",
    "judge",
    "parse_plain_quantity",
    "verify",
    "verify_many",
]
