"""Votes: the answers to one problem as classes of equal ones, as the verifier sees equality.

Right answers are one class: the verifier has found each equal to the gold answer. A wrong one is
compared with the first of every other class, exactly where that decides, else by algebra in the
verifier's pool of killable workers.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from r1pipe.records import Row, Verdict
from r1pipe.verify.equivalence import MAX_ANSWER_CHARS, decide, read_gold
from r1pipe.verify.reading.words import letters, normal, unmarked
from r1pipe.verify.workers.pool import DEFAULT_LIMIT_S, shared_pool

MAX_ALGEBRA = 8
"""Classes that one answer is compared with by algebra; each is a pair in the pool, in parallel."""
MAX_PAIRS, MAX_FAILED = 128, 4
"""Pairs of one problem for algebra, and those that may run out of time or crash; after that answers
vote as they are written."""
RIGHT = 0
"""The class of the right answers."""


def votes(group: Sequence[Row], *, timeout_s: float = DEFAULT_LIMIT_S) -> list[int | None]:
    """Return the class of every sample of one problem, in order; None for no answer.

    Programs, expressions of Countdown and answers to checkers of plugins can be right in many ways:
    they vote as they are written. So do answers over 300 characters and those whose verification
    ended in a timeout or a crash.
    """
    classes = _Classes(str(group[0].get("checker", "math")), timeout_s)
    is_valued = classes.checker in ("choice", "contains", "math", "number", "refusal", "word")
    for row in group:
        if is_valued and row["extracted"] is not None and row["verdict"] == Verdict.CORRECT:
            classes.by_text[row["extracted"]] = RIGHT
    return [
        classes.of(row["extracted"], is_alone=not is_valued or row["verdict"] in _FAILED)
        for row in group
    ]


_FAILED = (Verdict.TIMEOUT, Verdict.CRASHED)


class _Classes:
    """The classes so far, and what finds them again."""

    def __init__(self, checker: str, timeout_s: float) -> None:
        self.checker = checker
        self.timeout_s = timeout_s
        self.by_text: dict[str, int] = {}
        self.by_value: dict[Hashable, int] = {}
        self.firsts: dict[int, tuple[str, bool]] = {}
        """Class -> its first answer, and whether that has a value in `by_value`."""
        self.count = RIGHT + 1
        self.num_pairs = self.num_failed = 0

    def of(self, text: str | None, *, is_alone: bool) -> int | None:
        """Return the class of an answer, a new one if it equals none before."""
        if text is None:
            return None
        if text not in self.by_text:
            is_alone = is_alone or len(text) > MAX_ANSWER_CHARS
            found = None if is_alone else self._equal(text)
            if found is None:
                found, self.count = self.count, self.count + 1
                if not is_alone:
                    self._remember(text, found)
            self.by_text[text] = found
        return self.by_text[text]

    def _remember(self, text: str, number: int) -> None:
        """Let the answers to come be compared with the first of a class."""
        value = self._value(text)
        if value is not None:
            self.by_value[value] = number
        self.firsts[number] = text, value is not None

    def _value(self, text: str) -> Hashable | None:
        """Return what alone identifies an answer: a plain number, letters, or words."""
        if self.checker in ("math", "number"):
            quantity = read_gold(text)[1]
            is_bare = quantity is not None and quantity.unit is None and not quantity.is_percent
            return quantity.value if quantity is not None and is_bare else None
        if self.checker == "choice" and (named := letters(text)):
            return named
        return normal(unmarked(text)) or text

    def _equal(self, text: str) -> int | None:
        """Return the class whose first answer equals this one, or None."""
        value = self._value(text)
        if value in self.by_value:
            return self.by_value[value]
        if self.checker not in ("math", "number"):
            return None
        undecided = []
        for number, (first, has_value) in self.firsts.items():
            if has_value and value is not None:
                continue  # two numbers, and not the same
            is_same = decide(first, text)
            if is_same:
                return number
            if is_same is None and self.checker == "math":
                undecided.append(number)
        left = 0 if self.num_failed >= MAX_FAILED else MAX_PAIRS - self.num_pairs
        return self._equal_by_algebra(text, undecided[: min(MAX_ALGEBRA, left)])

    def _equal_by_algebra(self, text: str, numbers: Sequence[int]) -> int | None:
        """Ask the pool; a class that takes too long is not asked about again."""
        promises = {
            number: shared_pool().submit(self.firsts[number][0], text, self.timeout_s)
            for number in numbers
        }
        self.num_pairs += len(numbers)
        verdicts = {number: promise.result() for number, promise in promises.items()}
        for number, verdict in verdicts.items():
            if verdict in _FAILED:
                del self.firsts[number]
                self.num_failed += 1
        return next((n for n, verdict in verdicts.items() if verdict == Verdict.CORRECT), None)
