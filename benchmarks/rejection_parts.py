"""What each step of rejection sampling costs, one by one, on canned completions."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from canned import SAMPLES, Canned, canned_problem

from r1pipe.candidates.candidate import SCHEMA, Origin, Sample, candidate_row
from r1pipe.candidates.quotas import Quotas
from r1pipe.candidates.selection import Selection
from r1pipe.generate.protocol import Request, SamplingParams
from r1pipe.records import Problem, json_lines
from r1pipe.rejection.schedule import Unit
from r1pipe.rejection.sources import Asked, GeneratedSamples, sample_seed
from r1pipe.rows import RowWriter, read_rows, write_rows
from r1pipe.settings import Keep
from r1pipe.store.journal import FileJournal
from r1pipe.verify import verify_many

PROBLEMS = 64
"""In a unit."""


class Clock:
    """Adds up the CPU seconds of named parts."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}

    def time(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function; its seconds belong to a part."""
        began = time.process_time()
        result = function(*arguments)
        self.parts[name] = self.parts.get(name, 0.0) + time.process_time() - began
        return result


class Steps:
    """The steps of the stage in its order, unit by unit, each timed."""

    def __init__(self, candidates: int, root: Path) -> None:
        self.clock, self.root, self.canned = Clock(), root, Canned()
        self.source = GeneratedSamples(self.canned.tokenizer, "chat", 1)
        self.origin = Origin("chat", 1.0, "m" * 64, Keep())
        self.selection = Selection(Quotas(), candidates)
        self.writer = RowWriter(root / "candidates", SCHEMA)
        self.journal = FileJournal(root / "journal")

    def unit(self, number: int, problems: Sequence[Problem]) -> None:
        """Go through all steps with one unit of problems of one task."""
        time_of, samples = self.clock.time, self.sampled(number, problems)
        plain = [(0, s.sample_index, s.seed, s.text, s.num_tokens, "stop") for s in samples]
        message = [{"samples": plain}]
        time_of("to the writer and back", lambda: json.loads(json_lines(message)))
        verdicts = time_of("verifier", lambda: verify_many((s.problem, s.text) for s in samples))
        pairs = list(zip(samples, verdicts, strict=True))
        row_of = lambda: [candidate_row(s, v, self.origin) for s, v in pairs]  # noqa: E731
        rows = time_of("filters and row", row_of)
        lines = time_of("lines of JSON", json_lines, rows)
        time_of("journal", self.journal.append_lines, str(number), len(rows), lines)
        time_of("selection", lambda: [self.selection.select(r, problems[0]) for r in rows])
        time_of("candidates' shards", self.writer.write, rows)

    def sampled(self, number: int, problems: Sequence[Problem]) -> list[Sample]:
        """Return a unit's samples; what the canned generator itself takes is not the stage's."""
        self.canned.learn(problems)
        requests = [
            Request(prompt, sample_seed(1, p, i), i)
            for prompt, p in zip(self.canned.golds, problems, strict=True)
            for i in range(SAMPLES)
        ]
        made = list(self.canned.generate(requests, SamplingParams()))
        unit = Unit(number, tuple(range(PROBLEMS)), 0, SAMPLES)
        part = "requests and decoding"
        self.clock.time(part, self.source.requests, unit, problems)
        asked = Asked(unit, problems, requests)
        decode = lambda: [self.source.sample(asked, each) for each in made]  # noqa: E731
        samples: list[Sample] = self.clock.time(part, decode)
        return samples

    def finish(self) -> dict[str, float]:
        """Write the kept rows; return the CPU seconds of each step."""
        self.clock.time("candidates' shards", self.writer.close)
        self.journal.close()
        kept = read_rows(self.root / "candidates", only="kept")
        self.clock.time("rows, read back and written", write_rows, self.root / "rows", kept, SCHEMA)
        return self.clock.parts


def parts(candidates: int, root: Path) -> dict[str, float]:
    """Return microseconds of CPU time per candidate for each step of the stage, one by one.

    Pairs for algebra are left out: `benchmarks/verifier.py` measures them.
    """
    steps = Steps(candidates, root)
    problems = [p for p in map(canned_problem, range(2 * candidates)) if p.task == "sum"]
    units = candidates // (PROBLEMS * SAMPLES)
    for number in range(units):
        steps.unit(number, problems[PROBLEMS * number : PROBLEMS * (number + 1)])
    count = units * PROBLEMS * SAMPLES
    return {name: round(1e6 * seconds / count, 1) for name, seconds in steps.finish().items()}
