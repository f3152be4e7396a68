"""Questions about candidates to an LLM judge, its replies, and the candidates selected by them.

All of it streams, in the candidates' order: in memory are the problems, a unit, one shard, and
sixteen bytes per kept row.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import count, groupby, islice
from typing import Protocol

import pyarrow as pa

from r1pipe.candidates.filters import is_kept
from r1pipe.candidates.judge_form import Form
from r1pipe.candidates.judge_reply import CUT_OFF, TOO_LONG
from r1pipe.candidates.llm_judge import Question, Reply, majority
from r1pipe.candidates.quotas import Quotas
from r1pipe.candidates.rejudge import check_quota, own_decisions, with_problems, with_verdict
from r1pipe.candidates.selection import Selection
from r1pipe.errors import StageError
from r1pipe.keys import InputIds
from r1pipe.records import Problem, Row, Verdict
from r1pipe.rows import read_rows
from r1pipe.stage import Context, Journal
from r1pipe.text import visible
from r1pipe.verify.reading.recast import recast

_WORDS = ("candidate_id", "task", "question", "reply", "verdict", "fault")
REPLIES = pa.schema(
    [
        *((name, pa.string()) for name in _WORDS),
        ("vote", pa.int64()),
        ("finish_reason", pa.string()),
        ("num_tokens", pa.int64()),
        ("temperature", pa.float64()),
        ("seed", pa.int64()),
        ("judge_id", pa.string()),
        ("template_id", pa.string()),
    ]
)
"""A reply with the question that it answers; no column is named as one of a candidate or problem
that tells rows apart, so that no reply is taken for either."""
MAX_EXAMPLE_CHARS = 120


class Choice(Protocol):
    """The choice of candidates that a judge is asked about."""

    @property
    def tasks(self) -> Collection[str] | None: ...
    @property
    def verdicts(self) -> Collection[str]: ...
    @property
    def keepable_only(self) -> bool: ...


def is_chosen(row: Row, choice: Choice) -> bool:
    """Return whether a candidate is chosen, by its `task`, `verdict` and `filters`."""
    if row["verdict"] not in choice.verdicts:
        return False
    if choice.tasks is not None and row["task"] not in choice.tasks:
        return False
    return not choice.keepable_only or is_kept(own_decisions(row) | {"verdict": True})


def chosen_count(rows: Iterable[Row], choice: Choice, name: str) -> int:
    """Return how many candidates are chosen; StageError if none, with the counts that there are.

    Some of them may have no answer to ask about.
    """
    there, chosen = Counter[str](), 0
    for row in rows:
        there[f"{row['task']}: {row['verdict']}"] += 1
        chosen += is_chosen(row, choice)
    if not chosen:
        listed = ", ".join(f"{kind} {number}" for kind, number in sorted(there.items()))
        raise StageError(
            f"{name}: no candidate is chosen by params.about; there are {listed or 'none at all'}"
        )
    return chosen


def questions(
    rows: Iterable[Row],
    problems: Mapping[str, Problem],
    choice: Choice,
    form: Form,
    name: str,
) -> Iterator[Question]:
    """Yield the question about each chosen candidate that has an answer and a reference, in order.

    Raises StageError for a candidate whose problem is not there.
    """
    for row, problem in with_problems(
        name, (row for row in rows if is_chosen(row, choice)), problems
    ):
        text = form.question(problem, recast(row["completion"], row["format"]))
        if text is not None:
            yield Question(row["id"], row["task"], text)


def units_of(items: Iterable[Question], size: int) -> Iterator[tuple[str, list[Question]]]:
    """Yield (number as text, questions) of units of `size`."""
    iterator = iter(items)
    for number in count():
        if not (unit := list(islice(iterator, size))):
            return
        yield str(number), unit


def reuse_replies(context: Context, journal: Journal, rows_per_unit: int) -> None:
    """Copy the replies of a previous result, which allowed fewer faults, into the journal.

    All else of its key is the same, so that its units are those of this stage.
    """
    if (earlier := context.previous("replies")) is None:
        return
    rows, done = read_rows(earlier), journal.done()
    for number in count():
        if not (unit := list(islice(rows, rows_per_unit))):
            return
        if str(number) not in done:
            journal.append(str(number), unit)


def reply_rows(
    asked: Sequence[Question],
    replies: Sequence[Sequence[Reply]],
    temperature: float,
    ids: InputIds,
) -> list[dict[str, object]]:
    """Return the replies to some questions as rows; `ids` are the stage's input ids."""
    return [
        {
            "candidate_id": question.candidate_id,
            "task": question.task,
            "question": question.text,
            "reply": reply.text,
            "verdict": str(reply.verdict),
            "fault": reply.fault,
            "vote": vote,
            "finish_reason": reply.finish_reason.value,
            "num_tokens": reply.num_tokens,
            "temperature": float(temperature),
            "seed": reply.seed,
            "judge_id": ids["model"],
            "template_id": ids["template"],
        }
        for question, votes in zip(asked, replies, strict=True)
        for vote, reply in enumerate(votes)
    ]


def in_order(journal: Journal) -> Iterator[Row]:
    """Yield a journal's rows by the numbers of their units: one that failed came later."""
    for unit in sorted(journal.done(), key=int):
        yield from map(json.loads, journal.lines(unit).splitlines())


class Tally:
    """Counts of replies by fault, with an example of one that could not be read."""

    def __init__(self, stage: str, num_expected: int, max_unreadable_frac: float) -> None:
        self.stage = stage
        self.num_expected = num_expected
        self.max_unreadable_frac = max_unreadable_frac
        self.num_replies = self.num_tokens = 0
        self.verdicts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.example = ""
        self.failure: StageError | None = None
        """Why no more questions are to be put."""

    def add(self, rows: Iterable[Row]) -> Tally:
        """Count replies."""
        for row in rows:
            self.num_replies += 1
            self.num_tokens += row["num_tokens"]
            self.verdicts[row["verdict"]] += 1
            if row["fault"]:
                self.faults[row["fault"]] += 1
                end = visible(row["reply"][-MAX_EXAMPLE_CHARS:])
                self.example = self.example or f"to {row['candidate_id']}: '...{end}'"
        return self

    def look(self) -> None:
        """Keep the first error that `check` raises."""
        try:
            self.check()
        except StageError as error:
            self.failure = self.failure or error

    def check(self) -> None:
        """Raise StageError if more of the expected replies cannot be read than are allowed."""
        unreadable, max_frac = self.faults.total(), self.max_unreadable_frac
        if unreadable <= max_frac * self.num_expected:
            return
        kinds = ", ".join(f"{number} {kind}" for kind, number in self.faults.most_common())
        longer = "raise params.max_tokens, " if self.faults[CUT_OFF] else ""
        shorter = "lower params.max_answer_chars, " if self.faults[TOO_LONG] else ""
        raise StageError(
            f"{self.stage}: {unreadable} of {self.num_replies} replies of the judge cannot be read"
            f" ({kinds}), more than params.max_unreadable_frac allows ({max_frac:g} of"
            f" {self.num_expected}); the first {self.example}; {longer}{shorter}take another judge"
            " or template, or raise max_unreadable_frac, which uses the replies again"
        )


def judged_rows(
    name: str,
    rows: Iterable[Row],
    replies: Iterable[Row],
    problems: Mapping[str, Problem],
    quotas: Quotas | None,
    selection: Selection,
    changes: Counter[str],
) -> Iterator[Row]:
    """Yield each candidate with the judge's verdict, if there is one, selected again.

    Both come in the candidates' order. `changes` counts `before -> after` of those asked about.
    Raises StageError as `with_problems` and `check_quota` do.
    """
    groups = groupby(replies, key=lambda reply: str(reply["candidate_id"]))
    asked = next(groups, None)
    for row, problem in with_problems(name, rows, problems):
        check_quota(name, row, quotas)
        verdict = Verdict(row["verdict"])
        if asked is not None and asked[0] == row["id"]:
            verdict = majority([Verdict(reply["verdict"]) for reply in asked[1]])
            changes[f"{row['verdict']} -> {verdict}"] += 1
            asked = next(groups, None)
        judged = with_verdict(row, verdict, {})
        selection.select(judged, problem)
        yield judged
    assert asked is None, f"a reply is to candidate {asked and asked[0]}, which did not come"
