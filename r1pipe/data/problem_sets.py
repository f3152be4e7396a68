"""Problems from published data sets, with every row accounted for.

The gold answer stands after `####` (GSM8K), in the last box of a solution (MATH), or in a column of
its own; what precedes it is kept as the worked solution.
"""

from __future__ import annotations

import random
import re
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

from r1pipe.audit.golds import check_golds
from r1pipe.data.bad_rows import BadRows
from r1pipe.data.problem_shapes import (
    Gold,
    ProblemColumns,
    answer_text,
    column_names,
    detect,
    is_there,
    lookup,
    prompt_text,
)
from r1pipe.errors import StageError
from r1pipe.files import Record, described, records
from r1pipe.files.record import broken, some_names
from r1pipe.keys import JsonObject, digest_json
from r1pipe.records import Problem, Row, Verdict
from r1pipe.verify.equivalence import MAX_GOLD_CHARS, read_gold
from r1pipe.verify.reading.extract import boxes

ROWS_PER_CHECK = 10_000
NUM_WORDS = 3
"""Words of three letters or more from which on a gold answer is a phrase."""
OTHER_GOLD = "the same prompt as a row above, with another answer"
UNUSABLE_FRAC = "params.columns.max_unusable_frac"
NO_SELF = "the gold answer does not verify against itself"

_WORD = re.compile(r"[^\W\d_]{3,}")
_CALCULATOR = re.compile(r"<<[^<>\n]{0,200}>>")
_ID_DIGITS = 16


@dataclass(frozen=True)
class Rules:
    """How the problems of a data set are read, and how many rows may be unusable."""

    columns: ProblemColumns
    language: str = "en"
    task: str = "math"
    checked_by: str = "rule"
    """`rule`, `judge`, or another checker: then a gold answer is any text."""
    max_bad_frac: float = 0.01
    max_unusable_frac: float = 0.02
    max_chars: int | None = None
    """Of a question; longer ones are left out."""

    @property
    def is_by_rule(self) -> bool:
        """Whether a rule compares answers with the gold answer."""
        return self.checked_by == "rule"


@dataclass
class LoadReport:
    """The outcome of every row: read = kept + duplicates + too long + bad + unusable + past the
    limit."""

    columns: ProblemColumns
    num_read: int = 0
    num_kept: int = 0
    num_duplicates: int = 0
    """Rows with the prompt and the answer of a row above."""
    num_over_max_chars: int = 0
    num_past_limit: int = 0
    num_unchecked: int = 0
    """Kept, though the check of the gold answer took too long."""
    bad: BadRows = field(default_factory=BadRows)
    unusable: BadRows = field(default_factory=BadRows)
    """Rows without a usable gold answer."""

    def as_note(self) -> JsonObject:
        """Return what the stage's report keeps."""
        golds = self.unusable.as_note()
        checked = self.num_read - len(self.bad)
        return {
            "shape": self.columns.as_text(),
            "num_read": self.num_read,
            "num_kept": self.num_kept,
            "num_duplicates": self.num_duplicates,
            "num_over_max_chars": self.num_over_max_chars,
            "num_past_limit": self.num_past_limit,
            "num_gold_checks_without_result": self.num_unchecked,
            **self.bad.as_note(),
            "num_unusable_golds": golds["num_bad_rows"],
            "unusable_golds": golds["bad_rows"],
            "unusable_gold_frac": round(len(self.unusable) / checked, 6) if checked else 0.0,
        }


@dataclass(frozen=True, slots=True)
class _Item:
    """What one row says; `fault` and whose it is, if it cannot be used."""

    prompt: str = ""
    gold: str = ""
    solution: str | None = None
    meta: Row = field(default_factory=dict)
    fault: str = ""
    is_gold_fault: bool = False


def columns_of(path: Path, rows: Sequence[Record], given: ProblemColumns | None) -> ProblemColumns:
    """Return how to read a data set: as told, or as its first rows show.

    Raises SourceError for columns that none of them has, and for an unknown shape.
    """
    values = [record.values for record in rows]
    known = column_names(values)
    if given is None:
        if (found := detect(values)) is None:
            raise broken(
                path,
                f"no known shape of problems (its columns: {some_names(known)})",
                "say which column is what: columns: {prompt: NAME, answer: NAME, gold: column}",
            )
        return found
    for name in given.used():
        if not any(is_there(row, name) for row in values):
            close = get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise broken(path, f"no column {name!r}", f"{hint}It has {some_names(known)}")
    return given


def found_in(path: Path, rows: Sequence[Record], rules: Rules) -> str:
    """Say what the first rows of a data set hold, or raise StageError if none is a problem."""
    bad, used = BadRows(), {name.partition(".")[0] for name in rules.columns.used()}
    num_worded = 0
    for record in rows:
        item = _read(record.values, rules)
        if item.fault:
            bad.add(record, item.fault)
        num_worded += rules.is_by_rule and _is_worded(item.gold)
    if len(bad) == len(rows):
        raise StageError(f"{path}: none of the first {len(rows)} rows is usable: {bad.as_text()}")
    spare = dict.fromkeys(name for record in rows for name in record.values if name not in used)
    ignored = f"; not used: {', '.join(spare)}" if spare else ""
    first = f"the first {len(rows)} rows are usable"
    if bad:
        first = f"of the first {len(rows)} rows {len(rows) - len(bad)} are usable: {bad.as_text()}"
    if num_worded:
        first += (
            f"; gold answers of several words: {num_worded}; the same in other words is wrong,"
            " unless `columns: {checked_by: judge}` has a language model compare them"
        )
    return f"{described(path)}: {rules.columns.as_text()}{ignored}; {first}"


def _is_worded(gold: str) -> bool:
    """Return whether a gold answer is a phrase, which can be said in other words."""
    is_phrase = "\\" not in gold and len(_WORD.findall(gold)) >= NUM_WORDS
    return is_phrase and read_gold(gold)[1] is None


def load_problems(
    path: Path,
    rules: Rules,
    limit: int | None,
    seed: int,
    stop_if_asked: Callable[[], None] = lambda: None,
) -> tuple[list[Problem], LoadReport]:
    """Return the problems of a data set in its own order, and what became of every row.

    `limit` keeps that many, chosen by `seed`. A prompt is kept once, as its first row has it,
    whatever blanks are around or inside it; another row with another answer is a bad row. Ids are
    hashes of prompt and answer, so they survive reordering. Gold answers are checked against
    themselves where a rule compares them. Memory holds the chosen problems, and a digest of each
    other. Raises StageError if too many rows are unusable, or none is left.
    """
    report = LoadReport(rules.columns)
    usable = _usable_rows(path, rules, report, stop_if_asked)
    chosen = set(_choose(usable, limit, seed))
    kept: list[Problem] = []
    places: list[Record] = []
    for number, record in enumerate(records(path)):
        if number in chosen:
            kept.append(_problem(_read(record.values, rules), rules))
            places.append(replace(record, values={}))
    report.num_past_limit = len(usable) - len(kept)
    if rules.is_by_rule:
        kept = _check_golds(kept, places, report)
    report.unusable.check(
        rules.max_unusable_frac, report.num_read, path, "check columns", UNUSABLE_FRAC
    )
    if not kept:
        long = f" ({report.num_over_max_chars} have more than max_chars)" if rules.max_chars else ""
        raise StageError(
            f"{path}: none of its {report.num_read} rows is a problem{long}; check columns"
        )
    report.num_kept = len(kept)
    return kept, report


def _usable_rows(
    path: Path, rules: Rules, report: LoadReport, stop_if_asked: Callable[[], None]
) -> array[int]:
    """Return the numbers of the rows that are problems; count all others."""
    usable, seen = array("q"), dict[str, str]()
    for number, record in enumerate(records(path)):
        if number % ROWS_PER_CHECK == 0:
            stop_if_asked()
        report.num_read += 1
        item = _read(record.values, rules)
        if item.fault:
            (report.unusable if item.is_gold_fault else report.bad).add(record, item.fault)
            continue
        if rules.max_chars is not None and len(item.prompt) > rules.max_chars:
            report.num_over_max_chars += 1
            continue
        prompt = digest_json(" ".join(item.prompt.split()))[:_ID_DIGITS]
        if prompt not in seen:
            seen[prompt] = item.gold
            usable.append(number)
        elif _is_same(seen[prompt], item.gold):
            report.num_duplicates += 1
        else:
            report.bad.add(record, OTHER_GOLD)
    report.bad.check(rules.max_bad_frac, report.num_read, path)
    report.unusable.check(
        rules.max_unusable_frac, report.num_read, path, "check columns", UNUSABLE_FRAC
    )
    return usable


def _is_same(one: str, other: str) -> bool:
    """Return whether two gold answers are the same text or number."""
    if one.strip() == other.strip():
        return True
    first, second = read_gold(one)[1], read_gold(other)[1]
    return first is not None and first == second


def _read(row: Row, rules: Rules) -> _Item:
    columns = rules.columns
    if columns.is_countdown:
        return _read_countdown(row, columns)
    prompt, fault = prompt_text(lookup(row, columns.prompt))
    if fault:
        return _Item(fault=fault)
    answer, fault = answer_text(lookup(row, columns.answer))
    if fault:
        return _Item(fault=fault, is_gold_fault=True)
    solution, gold, fault = split_gold(answer, columns.gold, not rules.is_by_rule)
    if columns.solution is not None and isinstance(said := lookup(row, columns.solution), str):
        solution = said.strip() or solution
    return _Item(prompt, gold, solution, fault=fault, is_gold_fault=True)


def _read_countdown(row: Row, columns: ProblemColumns) -> _Item:
    numbers, target = lookup(row, columns.prompt), lookup(row, columns.answer)
    if not isinstance(numbers, list) or not numbers or not all(type(n) is int for n in numbers):
        return _Item(fault="the numbers are no list of integers")
    if type(target) is not int:
        return _Item(fault="the target is no integer", is_gold_fault=True)
    listed = ", ".join(map(str, numbers))
    prompt = (
        f"Use each of the numbers {listed} exactly once, with +, -, * or / and parentheses, to make"
        f" {target}. Answer with the expression."
    )
    return _Item(prompt, str(target), meta={"numbers": numbers, "target": target})


def split_gold(answer: str, gold: Gold, is_judged: bool = False) -> tuple[str | None, str, str]:
    """Return (solution, gold answer, fault) of an answer text; the fault is "" if there is none.

    A gold answer for a judge is taken as it is, at any length.

    >>> split_gold("2+3=<<2+3=5>>5 apples.\\n#### 5", "hash")
    ('2+3=5 apples.', '5', '')
    """
    text = _CALCULATOR.sub("", answer).strip()
    solution: str | None = None
    if gold == "column":
        value = text
    elif gold == "hash":
        before, mark, value = text.rpartition("####")
        if not mark:
            return None, "", "no #### in the answer"
        solution, value = before.strip() or None, value.strip()
    else:
        found = boxes(text)
        if not found:
            return None, "", "no box in the answer"
        solution, value = text, found[-1]
    return solution, value, _fault(value, is_judged)


def _fault(value: str, is_judged: bool) -> str:
    if not (value.strip() if is_judged else read_gold(value)[0]):
        return "empty gold answer"
    return "gold answer too long" if len(value) > MAX_GOLD_CHARS and not is_judged else ""


def _problem(item: _Item, rules: Rules) -> Problem:
    if rules.columns.is_countdown:
        checker, task, level = "countdown", "countdown", len(item.meta["numbers"]) - 1
    else:
        by_rule = "number" if read_gold(item.gold)[1] is not None else "math"
        checker, task, level = (by_rule if rules.is_by_rule else rules.checked_by), rules.task, 0
    return Problem(
        id=f"{task}-{digest_json([item.prompt, item.gold])[:_ID_DIGITS]}",
        task=task,
        prompt=item.prompt.strip(),
        gold=item.gold,
        language=rules.language,
        checker=checker,
        solution=item.solution,
        level=level,
        meta=item.meta,
    )


def _choose(numbers: Sequence[int], limit: int | None, seed: int) -> Sequence[int]:
    """Return `limit` of the rows, drawn by seed."""
    if limit is None or limit >= len(numbers):
        return numbers
    return [numbers[index] for index in random.Random(seed).sample(range(len(numbers)), limit)]


def _check_golds(
    problems: list[Problem], places: Sequence[Record], report: LoadReport
) -> list[Problem]:
    """Return the problems whose gold answer verifies against itself, and count the others.

    One whose check ends without a verdict is kept: how long it takes depends on the machine.
    """
    found = check_golds(problems, max_unusable_frac=1.0)
    verdicts = {problem.id: verdict for problem, verdict in found.quarantined}
    kept = []
    for problem, place in zip(problems, places, strict=True):
        verdict = verdicts.get(problem.id)
        if verdict in (Verdict.GOLD_UNUSABLE, Verdict.WRONG):
            report.unusable.add(place, NO_SELF)
        else:
            report.num_unchecked += verdict is not None
            kept.append(problem)
    return kept
