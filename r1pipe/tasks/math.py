"""Problems from any data set that `datasets` loads: local JSON lines, Parquet, CSV, or the hub.

The gold answer stands after `####` (GSM8K), in the last box of a solution (MATH), or in a column of
its own; what precedes it is kept as the worked solution.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from r1pipe.errors import SourceError, StageError
from r1pipe.keys import digest_json
from r1pipe.records import Problem, Row
from r1pipe.verify.answers.extract import boxes
from r1pipe.verify.equivalence import MAX_GOLD_CHARS, read_gold

Gold = Literal["hash", "boxed", "column"]

_CALCULATOR = re.compile(r"<<[^<>\n]{0,200}>>")
_READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
_ID_DIGITS = 16


@dataclass
class LoadReport:
    """The outcome of every row: read = kept + duplicates + unusable golds + past the limit."""

    num_read: int = 0
    num_kept: int = 0
    num_duplicates: int = 0
    num_past_limit: int = 0
    unusable: Counter[str] = field(default_factory=Counter)
    """Rows without a usable gold answer, by reason."""
    examples: list[dict[str, object]] = field(default_factory=list)
    """The first few rows that were set aside, with their reason."""

    @property
    def num_unusable(self) -> int:
        """The number of rows set aside."""
        return sum(self.unusable.values())


class MathProblems(list[Problem]):
    """A list of problems that carries the report of its loading."""

    report: LoadReport


def load_math(  # noqa: PLR0913 - the parameters of a stage, one for one
    source: Path | str,
    *,
    split: str | None,
    prompt_column: str,
    answer_column: str,
    gold: Gold,
    language: str,
    limit: int | None,
    seed: int,
    task: str = "math",
    is_judged: bool = False,
    revision: str | None = None,
    max_unusable_frac: float = 0.01,
) -> MathProblems:
    """Return the problems of a data set, in its own order; `report` says what was set aside.

    `limit` keeps that many, chosen by `seed`. Rows with the same prompt and gold are kept once. Ids
    are hashes of both, so they survive reordering. A gold answer for a judge is any text. More than
    `max_unusable_frac` of rows without a usable gold answer is an error.
    """
    rows = read_rows(source, split, revision)
    report = LoadReport()
    problems: dict[str, Problem] = {}
    for number, row in enumerate(rows, start=1):
        report.num_read += 1
        prompt, answer = _columns(row, prompt_column, answer_column, source, number)
        solution, value, fault = split_gold(answer, gold, is_judged)
        if fault or not prompt.strip():
            _set_aside(report, number, fault or "empty prompt", answer)
            continue
        problem = _problem(prompt, solution, value, language, task, is_judged)
        report.num_duplicates += problem.id in problems
        problems.setdefault(problem.id, problem)
    _check_share(report, source, max_unusable_frac)
    kept = MathProblems(_choose(list(problems.values()), limit, seed))
    report.num_kept, report.num_past_limit = len(kept), len(problems) - len(kept)
    kept.report = report
    return kept


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


def read_rows(source: Path | str, split: str | None, revision: str | None) -> Iterable[Row]:
    """Open a local file (by its suffix) or a hub data set with `datasets`."""
    import datasets

    datasets.disable_progress_bars()
    path = Path(source)
    kind = _READERS.get(path.suffix)
    if kind is not None or path.exists():
        if not path.is_file():
            raise SourceError(
                f"{source}: no such file; give a .jsonl, .json, .parquet or .csv file"
            )
        if kind is None:
            known = ", ".join(_READERS)
            raise SourceError(f"{source}: cannot read {path.suffix!r} files; use one of {known}")
        local: Iterable[Row] = datasets.load_dataset(kind, data_files=str(path), split="train")
        return local
    try:
        loaded: Iterable[Row] = datasets.load_dataset(
            str(source), split=split or "train", revision=revision
        )
    except Exception as error:
        raise SourceError(
            f"{source}: cannot load this data set (split {split!r}, revision {revision!r}):"
            f" {error}; check the name, or give a local file"
        ) from error
    return loaded


def _columns(
    row: Row, prompt_column: str, answer_column: str, source: Path | str, number: int
) -> tuple[str, str]:
    for column in (prompt_column, answer_column):
        if column not in row:
            known = ", ".join(sorted(row))
            raise SourceError(f"{source}: row {number} has no column {column!r}; it has {known}")
    prompt, answer = row[prompt_column], row[answer_column]
    return str(prompt if prompt is not None else ""), str(answer if answer is not None else "")


def _problem(
    prompt: str, solution: str | None, value: str, language: str, task: str, is_judged: bool
) -> Problem:
    by_rule = "number" if read_gold(value)[1] is not None else "math"
    return Problem(
        id=f"{task}-{digest_json([prompt, value])[:_ID_DIGITS]}",
        task=task,
        prompt=prompt.strip(),
        gold=value,
        language=language,
        checker="judge" if is_judged else by_rule,
        solution=solution,
    )


def _set_aside(report: LoadReport, number: int, fault: str, answer: str) -> None:
    report.unusable[fault] += 1
    if len(report.examples) < 10:
        report.examples.append({"row": number, "reason": fault, "answer": answer[:200]})


def _check_share(report: LoadReport, source: Path | str, max_unusable_frac: float) -> None:
    if report.num_unusable <= max_unusable_frac * report.num_read:
        return
    reasons = ", ".join(f"{count} x {reason}" for reason, count in report.unusable.most_common())
    first = report.examples[0]
    raise StageError(
        f"{source}: {report.num_unusable} of {report.num_read} rows have no usable gold answer"
        f" ({reasons}; first at row {first['row']}); check gold and answer_column, or raise"
        " max_unusable_frac"
    )


def _choose(problems: list[Problem], limit: int | None, seed: int) -> list[Problem]:
    """Return `limit` problems drawn by seed, in the data set's order."""
    if limit is None or limit >= len(problems):
        return problems
    chosen = random.Random(seed).sample(range(len(problems)), limit)
    return [problems[index] for index in sorted(chosen)]
