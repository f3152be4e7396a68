"""The table of checkers; a pair is verified here if that is exact, else in the pool."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from r1pipe.errors import StageError
from r1pipe.plugins.tables import Entry, active, plugin_checker
from r1pipe.records import Problem, Verdict
from r1pipe.verify import chain_of_parities, code, countdown, phrases
from r1pipe.verify.comparing.choices import names_choice
from r1pipe.verify.comparing.quantities import same_number
from r1pipe.verify.equivalence import MAX_GOLD_CHARS, decide, offers_choice, read_gold
from r1pipe.verify.reading.extract import Prefer, find_answer, find_choice, settled
from r1pipe.verify.reading.numbers import parse_quantity
from r1pipe.verify.workers.pool import DEFAULT_LIMIT_S, Promise, shared_pool

Checker = Callable[[Problem, str], Verdict]

WINDOW = 4096
"""Pairs in flight in a stream: enough to keep the workers busy, and bounded."""


@dataclass(frozen=True, slots=True)
class Verification:
    """A verdict with the answer extracted and the method."""

    verdict: Verdict
    extracted: str | None
    method: str
    """Where the answer stood (`box`, `tag`, `hash`, `phrase`, `summary`, `fence`, `none`) and,
    after a slash, the layer that decided (`exact`, `symbolic`, `sandbox`; `judge`: none yet)."""
    ms: float


def check_number(problem: Problem, text: str) -> Verdict:
    """Verify a numeric answer by exact rationals, in microseconds, with no algebra."""
    gold = read_gold(problem.gold)[1]
    if gold is None:
        return Verdict.GOLD_UNUSABLE

    def is_right(answer: str) -> bool:
        given = parse_quantity(answer)
        return given is not None and same_number(gold, given)

    return settled(text, is_right)


def check_math(problem: Problem, text: str) -> Verdict:
    """Verify any mathematical answer: exactly if that decides, else by algebra in a worker."""
    return verify_one(problem, text).verdict


CHECKERS: dict[str, Checker] = {
    "chain-of-parities": chain_of_parities.check,
    "choice": phrases.check_choice,
    "code": code.check,
    "contains": phrases.check_contains,
    "countdown": countdown.check,
    "judge": phrases.check_judge,
    "math": check_math,
    "number": check_number,
    "refusal": phrases.check_refusal,
    "word": phrases.check_word,
}


def verify(problem: Problem | str, text: str) -> Verdict:
    """Verify one completion by the problem's own checker.

    A gold answer instead of a problem is one in mathematics. Algebra starts two workers, which end
    with this process or at `close_shared`.

    >>> verify(r"\\frac{1}{2}", r"<think>1/2, as a decimal</think> It is $\\boxed{0.5}$.")
    <Verdict.CORRECT: 'correct'>
    >>> verify("(1, 2)", r"\\boxed{(2, 1)}"), verify("5", "<think>It is 5, so")
    (<Verdict.WRONG: 'wrong'>, <Verdict.NO_ANSWER: 'no_answer'>)
    """
    if isinstance(problem, str):
        problem = Problem("", "math", "", problem)
    return checker_of(problem)(problem, text)


def verify_one(problem: Problem, text: str, *, timeout_s: float = DEFAULT_LIMIT_S) -> Verification:
    """Verify one completion; return also the extracted answer and the layer that decided."""
    return _settle(_start(problem, text, timeout_s, 0, _Asked()))


def verify_many(
    pairs: Iterable[tuple[Problem, str]], *, timeout_s: float = DEFAULT_LIMIT_S, workers: int = 0
) -> list[Verdict]:
    """Verify many completions, in order.

    Cheap checkers run in this process. Pairs that need algebra go to the pool (`workers` of them;
    0 means two), which starts at the first such pair; equal pairs are verified once.
    """
    stream = verify_stream(pairs, timeout_s=timeout_s, workers=workers)
    return [verification.verdict for verification in stream]


def verify_stream(
    pairs: Iterable[tuple[Problem, str]], *, timeout_s: float = DEFAULT_LIMIT_S, workers: int = 0
) -> Iterator[Verification]:
    """Verify completions as they come, in order, with a bounded number of them in flight."""
    asked = _Asked()
    waiting: deque[_Pending] = deque()
    for problem, text in pairs:
        waiting.append(_start(problem, text, timeout_s, workers, asked))
        while waiting and (len(waiting) >= WINDOW or not isinstance(waiting[0].verdict, Promise)):
            yield _settle(waiting.popleft())
    while waiting:
        yield _settle(waiting.popleft())


class _Asked(OrderedDict[tuple[str, str], Promise]):
    """The last pairs sent to the pool, so that equal ones are verified once."""

    def once(self, key: tuple[str, str], start: Callable[[], Promise]) -> Promise:
        """Return the promise of a pair, started where it is not among the last ones."""
        if key not in self:
            self[key] = start()
            if len(self) > WINDOW:
                self.popitem(last=False)
        self.move_to_end(key)
        return self[key]


@dataclass(frozen=True, slots=True)
class _Pending:
    verdict: Verdict | Promise
    extracted: str | None
    method: str
    ms: float


def _start(problem: Problem, text: str, timeout_s: float, workers: int, asked: _Asked) -> _Pending:
    """Verify a pair here, or send it to the pool and return the promise."""
    started = time.perf_counter()
    verdict: Verdict | Promise
    if problem.checker == "math":
        verdict, extracted, method = _start_math(problem, text, timeout_s, workers, asked)
    elif problem.checker == "code":
        extracted, method = _extracted(problem, text)
        tests = f"code {sorted(problem.meta.items())!r}"
        verdict = asked.once((tests, extracted or ""), lambda: code.start(problem, text))
    else:
        verdict = checker_of(problem)(problem, text)
        extracted, method = _extracted(problem, text)
    return _Pending(verdict, extracted, method, 1000 * (time.perf_counter() - started))


def _start_math(
    problem: Problem, text: str, timeout_s: float, workers: int, asked: _Asked
) -> tuple[Verdict | Promise, str | None, str]:
    found = find_answer(text)
    if _asks_for_choice(problem.gold) and not names_choice(found.answer or ""):
        found = find_choice(text) or found
    exact = f"{found.method}/exact"
    if not read_gold(problem.gold)[0] or len(problem.gold) > MAX_GOLD_CHARS:
        return Verdict.GOLD_UNUSABLE, found.answer, exact
    if found.answer is None:
        return Verdict.NO_ANSWER, None, exact
    is_open = found.is_hedge and not offers_choice(problem.gold)
    decided = False if is_open else decide(problem.gold, found.answer)
    if decided is not None:
        return Verdict.CORRECT if decided else Verdict.WRONG, found.answer, exact
    pair = problem.gold, found.answer
    promise = asked.once(pair, lambda: shared_pool(workers).submit(*pair, timeout_s))
    return promise, found.answer, f"{found.method}/symbolic"


@lru_cache(maxsize=16384)
def _asks_for_choice(gold: str) -> bool:
    return names_choice(gold)


def _extracted(problem: Problem, text: str) -> tuple[str | None, str]:
    if problem.checker in ("contains", "refusal"):
        return None, "summary/exact"
    if problem.checker == "judge":
        return None, "summary/judge"
    if problem.checker == "code":
        return code.extract_program(text, code.language_of(problem)), "fence/sandbox"
    prefer: Prefer = "tag" if problem.checker == "countdown" else "box"
    found = find_answer(text, prefer=prefer)
    return found.answer, f"{found.method}/exact"


def _settle(pending: _Pending) -> Verification:
    verdict, ms = pending.verdict, pending.ms
    if isinstance(verdict, Promise):
        promise, verdict = verdict, verdict.result()
        ms += 1000 * promise.elapsed_s
    return Verification(verdict, pending.extracted, pending.method, ms)


def checker_of(problem: Problem) -> Checker:
    """Return the problem's checker, or say which there are."""
    checker = CHECKERS.get(problem.checker)
    if checker is not None:
        if (taken := active().table("checkers").get(problem.checker)) is not None:
            raise taken.wrong("has the name of one of r1pipe's own; rename it")
        return checker
    if (entry := plugin_checker(problem)) is not None:
        return _checked(entry)
    known = ", ".join(sorted({*CHECKERS, *active().table("checkers")}))
    raise StageError(
        f"problem {problem.id}: no checker is called {problem.checker!r}; choose one of {known}, or"
        " name its plugin in the manifest"
    )


def _checked(entry: Entry) -> Checker:
    """Return a plugin's checker, which must give a Verdict."""

    def check(problem: Problem, text: str) -> Verdict:
        verdict = entry(problem, text)
        if not isinstance(verdict, Verdict):
            raise entry.wrong(f"gave {verdict!r} for problem {problem.id}; give a Verdict")
        return verdict

    return check
