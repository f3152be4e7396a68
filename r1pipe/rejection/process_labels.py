"""Labels of steps by what comes of them (Math-Shepherd, arXiv:2312.08935, section 3).

A model goes on from every step's end some times, and each whole completion, prefix and
continuation, is verified. The end of the completion itself needs none: its verdict is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

from r1pipe.candidates.candidate import FAILED
from r1pipe.chat import as_format
from r1pipe.generate.protocol import Request, Sampled
from r1pipe.generate.uniforms import request_seed
from r1pipe.models.interfaces import Tokenizer
from r1pipe.models.prompts import after_opened, encode_prompt, opened_thought
from r1pipe.models.tokenizer import decoder
from r1pipe.records import FinishReason, Problem, Row, Verdict
from r1pipe.supervision.steps import line_ends
from r1pipe.verify import verify_many
from r1pipe.verify.reading.recast import recast

LabelName: TypeAlias = Literal["hard", "soft"]
Candidate: TypeAlias = tuple[Row, Problem]
"""A candidate and its problem."""
CARRIED = ("problem_id", "task", "language", "format", "prompt", "completion")


@dataclass(frozen=True, slots=True)
class Prefix:
    """A completion up to the end of a step; candidates of one problem may share it."""

    problem: Problem
    text: str
    format: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What tells it from others."""
        return self.problem.id, self.problem.prompt, self.format, self.text


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of the continuations of a prefix."""

    num_correct: int
    num_decided: int
    """Those that the verifier decided on: a fault of its own says nothing."""


def why_left_out(row: Row) -> str | None:
    """Return why a candidate gets no labels; None if it gets some."""
    if row["verdict"] in FAILED:
        return "undecided"
    if row["finish_reason"] == FinishReason.LENGTH:
        return "truncated"
    return None if line_ends(row["completion"]) else "without_steps"


@dataclass(frozen=True, slots=True)
class LabelUnit:
    """Candidates whose steps are continued together."""

    candidates: Sequence[Candidate]
    prefixes: Sequence[Sequence[Prefix]]
    """Of each candidate, the last one with all of it."""
    distinct: Sequence[Prefix]
    """What is continued."""


class Continuer:
    """Has a model go on from prefixes, and verifies what comes of it."""

    def __init__(self, tokenizer: Tokenizer, num_continuations: int, seed: int) -> None:
        self.tokenizer = tokenizer
        self.num_continuations = num_continuations
        self.seed = seed
        self._decode = decoder(tokenizer)
        self._opened = lru_cache(maxsize=64)(lambda fmt: opened_thought(tokenizer, fmt))

    def unit(self, candidates: Sequence[Candidate]) -> LabelUnit:
        """Return candidates with their prefixes, equal ones only once to be continued."""
        prefixes = [self.prefixes(row, problem) for row, problem in candidates]
        continued = {prefix.key: prefix for of_row in prefixes for prefix in of_row[:-1]}
        return LabelUnit(candidates, prefixes, list(continued.values()))

    def prefixes(self, row: Row, problem: Problem) -> list[Prefix]:
        """Return the prefixes of a candidate that end with a step, the last one with all of it.

        A step that the prompt itself has opened is none of the completion.
        """
        text, fmt = row["completion"], row["format"]
        skipped = len(text) - len(after_opened(text, self._opened(fmt), fmt))
        ends = [end for end in line_ends(text) if end > skipped]
        return [Prefix(problem, text[:end], fmt) for end in ends]

    def requests(self, prefixes: Sequence[Prefix]) -> list[Request]:
        """Return the requests for the continuations of different prefixes, one after the other.

        A request's seed is made of the problem, the prefix and its number, so that a prefix has
        the same continuations whatever unit it is in.
        """
        count = self.num_continuations
        return [
            Request(own, request_seed(self.seed, *prefix.key, i), number * count + i)
            for number, (prefix, own) in enumerate((each, self._ids(each)) for each in prefixes)
            for i in range(count)
        ]

    def text(self, unit: LabelUnit, request: Request, sampled: Sampled) -> str:
        """Return a prefix with a continuation."""
        prefix = unit.distinct[request.index // self.num_continuations]
        return prefix.text + self._decode(sampled.written_ids)

    def rows(self, unit: LabelUnit, texts: Mapping[int, str]) -> list[Row]:
        """Verify the continued texts of a unit, by the indices of their requests; return, for each
        candidate, its steps as [end, right, decided] in a list."""
        outcomes = self._outcomes(unit.distinct, texts)
        rows: list[Row] = []
        for (row, _), of_row in zip(unit.candidates, unit.prefixes, strict=True):
            found = [(len(p.text), outcomes[p.key]) for p in of_row[:-1]]
            steps = [[end, outcome.num_correct, outcome.num_decided] for end, outcome in found]
            is_right = int(row["verdict"] == Verdict.CORRECT)
            steps += [[len(of_row[-1].text), is_right, 1]] if of_row else []
            rows.append({"id": row["id"], "steps": steps})
        return rows

    def _outcomes(
        self, prefixes: Sequence[Prefix], texts: Mapping[int, str]
    ) -> dict[tuple[str, str, str, str], Outcome]:
        count = self.num_continuations
        owners = [prefix for prefix in prefixes for _ in range(count)]
        verdicts = verify_many(
            [(p.problem, recast(texts[i], p.format)) for i, p in enumerate(owners)]
        )
        return {
            prefix.key: _outcome(verdicts[number * count : (number + 1) * count])
            for number, prefix in enumerate(prefixes)
        }

    def _ids(self, prefix: Prefix) -> tuple[int, ...]:
        """Return prompt and prefix as the tokens that the model continues."""
        fmt = as_format(prefix.format)
        said = after_opened(prefix.text, self._opened(prefix.format), fmt)
        ids = self.tokenizer(said, add_special_tokens=False)["input_ids"]
        return *encode_prompt(self.tokenizer, prefix.problem.prompt, fmt), *ids


def _outcome(verdicts: Sequence[Verdict]) -> Outcome:
    decided = [verdict for verdict in verdicts if verdict not in FAILED]
    return Outcome(decided.count(Verdict.CORRECT), len(decided))


def label(num_correct: int, num_decided: int, labels: LabelName) -> float:
    """Return a step's label: `hard` 1 if any continuation is right, `soft` the share that is.

    >>> label(1, 4, "hard"), label(1, 4, "soft"), label(0, 4, "hard")
    (1.0, 0.25, 0.0)
    """
    return float(num_correct > 0) if labels == "hard" else num_correct / num_decided


def labelled_rows(
    candidates: Iterable[Candidate],
    found: Iterable[Row],
    labels: LabelName,
    counts: Counter[str],
) -> Iterator[Row]:
    """Yield candidates with their labelled steps; those of which nothing is known are counted.

    Both come in the same order.
    """
    for (row, _), of_row in zip(candidates, found, strict=True):
        assert of_row["id"] == row["id"], "the units are of other candidates"
        decided = [step for step in of_row["steps"] if step[2]]
        counts["undecided_steps"] += len(of_row["steps"]) - len(decided)
        if not decided:
            counts["without_steps"] += 1
            continue
        steps = [{"end": end, "label": label(right, n, labels)} for end, right, n in decided]
        counts["steps"] += len(steps)
        counts["good_steps"] += sum(step["label"] > 0 for step in steps)
        yield {
            **{name: row[name] for name in CARRIED},
            "steps": steps,
            "num_correct": [right for _, right, _ in decided],
            "candidate_id": row["id"],
        }
