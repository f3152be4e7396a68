"""The sources of a unit's samples: the generator, or a previous result of the same stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from r1pipe.candidates.candidate import Sample, candidate_id
from r1pipe.chat import AnyFormat
from r1pipe.generate.protocol import Request, Sampled
from r1pipe.generate.uniforms import request_seed, request_seeds
from r1pipe.models.interfaces import Tokenizer
from r1pipe.models.prompts import encode_prompt, opened_thought
from r1pipe.models.tokenizer import decoder
from r1pipe.records import Problem, Row
from r1pipe.rejection.schedule import Unit
from r1pipe.rejection.writer import sample_of
from r1pipe.rows import read_rows


@dataclass(frozen=True, slots=True)
class Asked:
    """A unit that the generator samples, with its problems, and its requests by index."""

    unit: Unit
    problems: Sequence[Problem]
    requests: Sequence[Request]


class GeneratedSamples:
    """Requests for samples, and the samples of their completions; each request has its own seed,
    whatever unit it is in."""

    def __init__(self, tokenizer: Tokenizer, fmt: AnyFormat, seed: int) -> None:
        self.tokenizer = tokenizer
        self.format = fmt
        self.seed = seed
        self._decode = decoder(tokenizer)
        self._opened: str | None = None

    def requests(self, unit: Unit, problems: Sequence[Problem]) -> list[Request]:
        """Return the requests of a unit, problem by problem."""
        requests: list[Request] = []
        for problem in problems:
            prompt = tuple(encode_prompt(self.tokenizer, problem.prompt, self.format))
            for seed in sample_seeds(self.seed, problem, unit.samples):
                requests.append(Request(prompt, seed, len(requests)))
        return requests

    def sample(self, asked: Asked, sampled: Sampled) -> Sample:
        """Return the sample that a completion of the unit is."""
        if self._opened is None:
            self._opened = opened_thought(self.tokenizer, self.format)
        place, number = divmod(sampled.index, asked.unit.samples_per_problem)
        return Sample(
            problem=asked.problems[place],
            sample_index=asked.unit.first_sample + number,
            seed=asked.requests[sampled.index].seed,
            text=self._opened + self._decode(sampled.written_ids),
            num_tokens=len(sampled.token_ids),
            finish_reason=sampled.finish_reason,
        )


def sample_seed(seed: int, problem: Problem, sample_index: int) -> int:
    """Return the seed of one request, from what identifies it."""
    return request_seed(seed, problem.id, problem.prompt, sample_index)


def sample_seeds(seed: int, problem: Problem, samples: range) -> list[int]:
    """Return `sample_seed` of several samples of a problem."""
    return request_seeds(seed, problem.id, problem.prompt, numbers=samples)


class PreviousSamples:
    """Samples of a finished result that differs only in its target.

    Its candidates are the first units of this one, or this one's are the first of it. They are
    verified again, so that every row has a present verdict.
    """

    def __init__(self, candidates: Path, seed: int) -> None:
        self.seed = seed
        self._rows: Iterator[Row] | None = read_rows(candidates)

    def skip(self, unit: Unit) -> None:
        """Pass over a unit whose samples are not needed."""
        if self._rows is not None:
            next(islice(self._rows, unit.num_samples - 1, None), None)

    def take(self, unit: Unit, problems: Sequence[Problem]) -> list[Sample] | None:
        """Return a unit's samples, or None when there are no more (or not the right ones)."""
        if self._rows is None:
            return None
        rows = list(islice(self._rows, unit.num_samples))
        wanted = [
            (problem, candidate_id(problem, i), seed)
            for problem in problems
            for i, seed in zip(
                unit.samples, sample_seeds(self.seed, problem, unit.samples), strict=True
            )
        ]
        if [(row["id"], row["seed"]) for row in rows] != [(name, seed) for _, name, seed in wanted]:
            self._rows = None
            return None
        return [sample_of(row, problem) for row, (problem, *_) in zip(rows, wanted, strict=True)]
