"""Verify sampled completions, decide which are kept, and write the candidates' shards.

It knows no engine, and holds one unit and one shard. `writer_process.py` runs it in a process of
its own, so that verifying takes no time from a generator in the stage's process.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from r1pipe.candidates.candidate import SCHEMA, Origin, Sample, candidate_row
from r1pipe.candidates.quotas import Quotas
from r1pipe.candidates.selection import BEYOND_TARGET, KEPT, OVER_QUOTA, Selection
from r1pipe.chat import as_format
from r1pipe.keys import JsonObject
from r1pipe.records import FinishReason, Problem, Row, json_lines
from r1pipe.rows import RowWriter
from r1pipe.settings import Keep
from r1pipe.verify import VERIFIER_VERSION, verify_stream
from r1pipe.verify.reading.recast import recast


@dataclass(frozen=True)
class WriterSettings:
    """The settings of a candidate writer."""

    origin: Origin
    quotas: Quotas
    target_rows: int
    candidates: Path
    """Folder of the candidates' shards."""

    def to_json(self) -> dict[str, object]:
        """Return the settings as JSON values."""
        origin = self.origin
        return {
            "origin": [as_format(origin.format).text, origin.temperature, origin.model_id],
            "keep": origin.keep.model_dump_json(),
            "quotas": self.quotas.model_dump_json(),
            "target_rows": self.target_rows,
            "candidates": str(self.candidates),
        }

    @classmethod
    def from_json(cls, value: JsonObject) -> WriterSettings:
        """Return the settings that `to_json` described."""
        fmt, temperature, model_id = value["origin"]
        return cls(
            Origin(as_format(fmt), temperature, model_id, Keep.model_validate_json(value["keep"])),
            Quotas.model_validate_json(value["quotas"]),
            value["target_rows"],
            Path(value["candidates"]),
        )


@dataclass(slots=True)
class ProblemResult:
    """The result of one unit for one of its problems."""

    new_lengths: list[int] = field(default_factory=list)
    """The length range of each new row: one that no quota, and no row before it, rules out."""
    over_quota: int = 0
    """Rows that would have been new but for a quota."""
    num_tokens: int = 0


@dataclass(slots=True)
class UnitResult:
    """The result of one unit by problem; `payload` holds its rows for the journal."""

    num_rows: int
    num_correct: int
    problems: list[ProblemResult]
    payload: bytes

    @property
    def num_new(self) -> int:
        """New rows of the unit."""
        return sum(len(problem.new_lengths) for problem in self.problems)

    @property
    def num_tokens(self) -> int:
        """Tokens that were sampled for the unit."""
        return sum(problem.num_tokens for problem in self.problems)


class CandidateWriter:
    """Takes units in order; a unit is a list of problems with the same number of samples each."""

    def __init__(self, settings: WriterSettings) -> None:
        self.origin = settings.origin
        self.selection = Selection(settings.quotas, settings.target_rows)
        self._writer = RowWriter(settings.candidates, SCHEMA)

    def verify(self, problems: Sequence[Problem], samples: Iterable[Sample]) -> UnitResult:
        """Verify and write the samples of one unit, which come as they finish."""
        places = {problem.id: place for place, problem in enumerate(problems)}
        verified = list(self._verified(samples))
        verified.sort(key=lambda pair: (places[pair[0].problem.id], pair[0].sample_index))
        rows = [row for _, row in verified]
        return self._record(problems, rows, json_lines(rows))

    def replay(self, problems: Sequence[Problem], payload: bytes) -> UnitResult:
        """Record a unit from a journal's lines; verify it again if another verifier did."""
        rows: list[Row] = [json.loads(line) for line in payload.splitlines()]
        by_id = {problem.id: problem for problem in problems}
        if any(row["verifier_version"] != VERIFIER_VERSION for row in rows):
            samples = [sample_of(row, by_id[row["problem_id"]]) for row in rows]
            rows = [row for _, row in self._verified(samples)]
        return self._record(problems, rows, b"")

    def finish(self) -> dict[str, int]:
        """Close the shards; return counts of the candidates by outcome, and of those written."""
        self._writer.close()
        return {**self.selection.counts, "written": self._writer.num_rows}

    def _verified(self, samples: Iterable[Sample]) -> Iterator[tuple[Sample, Row]]:
        """Yield samples with their rows, in the order in which they came."""
        waiting: deque[Sample] = deque()

        def pairs() -> Iterator[tuple[Problem, str]]:
            for sample in samples:
                waiting.append(sample)
                yield sample.problem, recast(sample.text, self.origin.format)

        for verification in verify_stream(pairs()):
            sample = waiting.popleft()
            yield sample, candidate_row(sample, verification.verdict, self.origin)

    def _record(self, problems: Sequence[Problem], rows: list[Row], payload: bytes) -> UnitResult:
        results = {problem.id: ProblemResult() for problem in problems}
        by_id = {problem.id: problem for problem in problems}
        num_correct = sum(row["verdict"] == "correct" for row in rows)
        for row in rows:
            result = results[row["problem_id"]]
            result.num_tokens += row["num_tokens"]
            outcome = self.selection.select(row, by_id[row["problem_id"]])
            if outcome in (KEPT, BEYOND_TARGET):
                length_range = self.selection.quotas.length_range(row["num_tokens"])
                result.new_lengths.append(length_range)
            result.over_quota += outcome == OVER_QUOTA
        self._writer.write(rows)
        return UnitResult(len(rows), num_correct, list(results.values()), payload)


def sample_of(row: Row, problem: Problem) -> Sample:
    """Return the sample that a candidate was made from."""
    return Sample(
        problem,
        int(row["id"].rpartition("#")[2]),
        row["seed"],
        row["completion"],
        row["num_tokens"],
        FinishReason(row["finish_reason"]),
    )
