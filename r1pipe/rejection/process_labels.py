"""Labels of steps by what comes of them (Math-Shepherd, arXiv:2312.08935, section 3).

A model goes on from every step's end some times, and the verifier judges each whole completion:
prefix and continuation. The end of the completion itself needs none: its verdict is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

from r1pipe.candidates.candidate import FAILED
from r1pipe.chat import as_format
from r1pipe.generate.protocol import Generator, Request, SamplingParams
from r1pipe.generate.uniforms import request_seed
from r1pipe.models.interfaces import Tokenizer
from r1pipe.models.prompts import after_opened, encode_prompt, opened_thought
from r1pipe.records import FinishReason, Problem, Row, Verdict
from r1pipe.supervision.steps import line_ends
from r1pipe.verify import verify_many
from r1pipe.verify.reading.recast import recast

LabelName: TypeAlias = Literal["hard", "soft"]
Judged: TypeAlias = tuple[Row, Problem]
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


class Continuer:
    """Goes on from prefixes with a model, and verifies what comes of it."""

    def __init__(
        self,
        generator: Generator,
        tokenizer: Tokenizer,
        sampling: SamplingParams,
        num_continuations: int,
        seed: int,
    ) -> None:
        self.generator = generator
        self.tokenizer = tokenizer
        self.sampling = sampling
        self.num_continuations = num_continuations
        self.seed = seed
        self._opened = lru_cache(maxsize=64)(lambda fmt: opened_thought(tokenizer, fmt))

    def prefixes(self, row: Row, problem: Problem) -> list[Prefix]:
        """Return the prefixes of a candidate that end with a step, the last one with all of it.

        A step that the prompt itself has opened is none of the completion.
        """
        text, fmt = row["completion"], row["format"]
        skipped = len(text) - len(after_opened(text, self._opened(fmt), fmt))
        ends = [end for end in line_ends(text) if end > skipped]
        return [Prefix(problem, text[:end], fmt) for end in ends]

    def outcomes(self, prefixes: Iterable[Prefix]) -> dict[tuple[str, str, str, str], Outcome]:
        """Sample and verify the continuations of all different prefixes, by their keys.

        A request's seed is made of the problem, the prefix and its number, so that a prefix has
        the same continuations whatever unit it is in.
        """
        distinct = list({prefix.key: prefix for prefix in prefixes}.values())
        count = self.num_continuations
        ids = map(self._ids, distinct)
        requests = [
            Request(own, request_seed(self.seed, *prefix.key, i), number * count + i)
            for number, (prefix, own) in enumerate(zip(distinct, ids, strict=True))
            for i in range(count)
        ]
        texts = [""] * len(requests)
        for sampled in self.generator.generate(requests, self.sampling) if requests else ():
            tokens, is_cut = sampled.token_ids, sampled.finish_reason is FinishReason.LENGTH
            said = self.tokenizer.decode(tokens if is_cut else tokens[:-1])
            texts[sampled.index] = distinct[sampled.index // count].text + said
        owners = [distinct[request.index // count] for request in requests]
        verdicts = verify_many(
            [(p.problem, recast(text, p.format)) for p, text in zip(owners, texts, strict=True)]
        )
        return {
            prefix.key: _outcome(verdicts[number * count : (number + 1) * count])
            for number, prefix in enumerate(distinct)
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


def unit_rows(unit: Sequence[Judged], continuer: Continuer) -> list[Row]:
    """Return, for each candidate of a unit, its steps as [end, right, decided] in a list."""
    prefixes = [continuer.prefixes(row, problem) for row, problem in unit]
    outcomes = continuer.outcomes(prefix for of_row in prefixes for prefix in of_row[:-1])
    rows: list[Row] = []
    for (row, _), of_row in zip(unit, prefixes, strict=True):
        found = [(len(p.text), outcomes[p.key]) for p in of_row[:-1]]
        steps = [[end, outcome.num_correct, outcome.num_decided] for end, outcome in found]
        is_right = int(row["verdict"] == Verdict.CORRECT)
        steps += [[len(of_row[-1].text), is_right, 1]] if of_row else []
        rows.append({"id": row["id"], "steps": steps})
    return rows


def label(num_correct: int, num_decided: int, labels: LabelName) -> float:
    """Return a step's label: `hard` 1 if any continuation is right, `soft` the share that is.

    >>> label(1, 4, "hard"), label(1, 4, "soft"), label(0, 4, "hard")
    (1.0, 0.25, 0.0)
    """
    return float(num_correct > 0) if labels == "hard" else num_correct / num_decided


def labelled_rows(
    judged: Iterable[Judged],
    found: Iterable[Row],
    labels: LabelName,
    counts: Counter[str],
) -> Iterator[Row]:
    """Yield candidates with their labelled steps; those of which nothing is known are counted.

    Both come in the same order.
    """
    for (row, _), of_row in zip(judged, found, strict=True):
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
