"""The sources of a unit's samples: the generator, or a previous result of the same stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from r1pipe.candidates.candidate import Sample, candidate_id
from r1pipe.chat import AnyFormat
from r1pipe.generate.protocol import Generator, Request, SamplingParams
from r1pipe.generate.uniforms import request_seed
from r1pipe.models.interfaces import Tokenizer
from r1pipe.models.prompts import encode_prompt, opened_thought
from r1pipe.records import FinishReason, Problem, Row
from r1pipe.rejection.schedule import Unit
from r1pipe.rejection.writer import sample_of
from r1pipe.rows import read_rows


class GeneratedSamples:
    """Samples from a generator; each request has its own seed, whatever unit it is in."""

    def __init__(
        self,
        generator_of: Callable[[str], Generator],
        tokenizer: Tokenizer,
        sampling: SamplingParams,
        fmt: AnyFormat,
        seed: int,
    ) -> None:
        self.generator_of = generator_of
        """What samples the requests of a name, which are always the same."""
        self.tokenizer = tokenizer
        self.sampling = sampling
        self.format = fmt
        self.seed = seed

    def samples(
        self, units: Sequence[Unit], problems: Sequence[Sequence[Problem]]
    ) -> Iterator[tuple[int, Sample]]:
        """Yield the samples of some units as they finish, each with its unit's place in `units`."""
        origins: list[tuple[int, Problem, int]] = []
        requests: list[Request] = []
        for place, (unit, asked) in enumerate(zip(units, problems, strict=True)):
            for problem in asked:
                prompt = tuple(encode_prompt(self.tokenizer, problem.prompt, self.format))
                for i in range(unit.first_sample, unit.first_sample + unit.samples_per_problem):
                    seed = sample_seed(self.seed, problem, i)
                    requests.append(Request(prompt, seed, len(requests)))
                    origins.append((place, problem, i))
        opened = opened_thought(self.tokenizer, self.format) if requests else ""
        name = "-".join(str(unit.number) for unit in (units[0], *units[1:][-1:]))
        for sampled in self.generator_of(name).generate(requests, self.sampling):
            place, problem, i = origins[sampled.index]
            ids = sampled.token_ids
            has_end = sampled.finish_reason is FinishReason.STOP
            yield (
                place,
                Sample(
                    problem=problem,
                    sample_index=i,
                    seed=requests[sampled.index].seed,
                    text=opened + self.tokenizer.decode(ids[:-1] if has_end else ids),
                    num_tokens=len(ids),
                    finish_reason=sampled.finish_reason,
                ),
            )


def sample_seed(seed: int, problem: Problem, sample_index: int) -> int:
    """Return the seed of one request, from what identifies it."""
    return request_seed(seed, problem.id, problem.prompt, sample_index)


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
            (problem, unit.first_sample + i)
            for problem in problems
            for i in range(unit.samples_per_problem)
        ]
        names = [(candidate_id(p, i), sample_seed(self.seed, p, i)) for p, i in wanted]
        if [(row["id"], row["seed"]) for row in rows] != names:
            self._rows = None
            return None
        return [sample_of(row, problem) for row, (problem, _) in zip(rows, wanted, strict=True)]
