"""The share of an engine's slots that stages keep busy, on a simulated clock.

    PYTHONPATH=.:tests python benchmarks/slots.py

The stages' own loops, stream and scheduler run; engines, verifier and tokens are simulated. Lengths
are log-normal, up to `--most` tokens; a token takes one unit of time, whatever the load. With
`--rollout N` it is the share while actors sample one rollout of N completions of a policy.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from test_scheduler import Simulated
from tiny import FakeContext, problems, tokenizer

from r1pipe.generate.failures import FailedUnits
from r1pipe.generate.protocol import Request, Sampled, SamplingParams, Weights
from r1pipe.generate.ray_policy import batches
from r1pipe.generate.scheduler import Scheduler, over_engines
from r1pipe.generate.streaming import streaming
from r1pipe.generate.units import PendingUnit, finished_units
from r1pipe.rejection.params import CollectRun, SampleParams
from r1pipe.rejection.sampler import RejectionSampler
from r1pipe.rejection.schedule import Schedule
from r1pipe.rejection.sources import GeneratedSamples
from r1pipe.rejection.writer import ProblemResult, UnitResult

SIGMA = 1.0
"""Of the logarithms of lengths."""
PROBLEMS, SAMPLES = 64, 16
"""Of a unit."""
NEVER = 1_000_000_000
"""Batches of so many completions are never kept."""


class Lengths(NamedTuple):
    """Log-normal lengths of completions in tokens, cut at the most that a stage allows."""

    median: float
    most: int

    def draw(self, rng: random.Random) -> int:
        """Return a length."""
        return max(1, min(self.most, int(rng.lognormvariate(math.log(self.median), SIGMA))))


class SimulatedEngines:
    """A generator over simulated engines; a completion is one token, its length takes time only."""

    def __init__(self, each: Sequence[int], lengths: Lengths) -> None:
        """`each` has the slots of every engine, as many for all."""
        self.lengths = lengths
        self.engines = Simulated(len(each), each[0])
        self.each = each
        self.num_slots = sum(each)
        self.losses: list[str] = []
        self.rng = random.Random(1)

    @property
    def busy_share(self) -> float:
        """Of all slots, from the first request to the last completion."""
        return self.engines.busy / (self.engines.now * self.num_slots)

    def generate(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Sampled]:
        """Answer requests; the clock goes on to the last completion."""
        yield from self.stream(iter(requests), sampling)

    def stream(
        self, requests: Iterator[Request | None], sampling: SamplingParams
    ) -> Iterator[Sampled]:
        """Answer requests as they come, each after a length of its own."""

        def timed() -> Iterator[Request | None]:
            for request in requests:
                if request is None:
                    yield None
                    continue
                length = self.lengths.draw(self.rng)
                yield Request(request.prompt_ids, length, request.index)

        yield from over_engines(Scheduler(self.each), self.engines, timed())

    def load_weights(self, tensors: Weights) -> None:
        """Nothing."""

    def sleep(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Writer:
    """Has a result as soon as a unit ends; half of its samples are kept."""

    def __init__(self) -> None:
        self.num_problems = 0
        self.sizes: list[int] = []

    @property
    def has_result(self) -> bool:
        """Whether a unit has ended."""
        return bool(self.sizes)

    def begin(self, problems: Sequence[Any]) -> None:
        """Begin a unit."""
        self.num_problems = len(problems)

    def add(self, samples: Sequence[Any]) -> None:
        """Take samples of it."""

    def end(self) -> None:
        """End it."""
        self.sizes.append(self.num_problems)

    def result(self) -> UnitResult:
        """Return the result of the oldest unit without one."""
        count = self.sizes.pop(0)
        rows = count * SAMPLES
        results = [ProblemResult([0] * (SAMPLES // 2)) for _ in range(count)]
        return UnitResult(rows, rows // 2, results, b'{"kept": true}\n' * rows)


class Context(FakeContext):
    """A stage's context that keeps no rows."""

    def journal(self, name: str) -> Any:
        """Return a journal that is empty and stays so."""
        return Forgetful()


class Forgetful:
    """A journal of nothing."""

    def done(self) -> frozenset[str]:
        """Return no unit."""
        return frozenset()

    def append_lines(self, unit: str, num_rows: int, payload: bytes) -> None:
        """Forget them."""


def requests(num_units: int) -> Iterator[list[Request]]:
    """Yield the requests of units: groups of equal prompts."""
    for unit in range(num_units):
        yield [Request((unit * PROBLEMS + i // SAMPLES,), 0, i) for i in range(PROBLEMS * SAMPLES)]


def by_unit(engines: SimulatedEngines, num_units: int) -> float:
    """Return the share if every unit is waited for."""
    for unit in requests(num_units):
        for _ in engines.generate(unit, SamplingParams()):
            pass
    return engines.busy_share


def evaluation(engines: SimulatedEngines, num_units: int, folder: Path) -> float:
    """Return the share of the loop of evaluation, the judge and process labels."""
    asked = (PendingUnit(str(n), n, unit) for n, unit in enumerate(requests(num_units)))
    with streaming(engines, Context(folder), SamplingParams(), NEVER) as stream:
        for _ in finished_units(stream, asked, lambda item, request, sampled: None, FailedUnits()):
            pass
    return engines.busy_share


def rejection(engines: SimulatedEngines, num_units: int, folder: Path) -> float:
    """Return the share of the loop of rejection sampling and cold start."""
    few: Iterable[Any] = problems(PROBLEMS)
    listed = list(few) * num_units
    params = SampleParams(
        seed=1, target_rows=NEVER, samples_per_problem=SAMPLES, max_tokens=engines.lengths.most
    )
    context = Context(folder)
    sampling = SamplingParams(max_tokens=engines.lengths.most, logprobs=False)
    writer: Any = Writer()
    with streaming(engines, context, sampling, NEVER) as stream:
        RejectionSampler(
            context,
            params,
            CollectRun(),
            Schedule(listed, params),
            GeneratedSamples(tokenizer(), "chat", 1),
            writer,
            stream,
        ).run()
    return engines.busy_share


def policy(
    num_requests: int, slots: int, num_engines: int, lengths: Lengths, *, one_each: bool
) -> float:
    """Return the share while a rollout is sampled in the batches that actors of a policy take:
    one for each engine, or as many as it has slots."""
    rng = random.Random(1)
    asked = [Request((i // SAMPLES,), 0, i) for i in range(num_requests)]
    free, busy = [0.0] * num_engines, 0.0
    for batch in batches(asked, slots, num_engines if one_each else None):
        begins = heapq.heappop(free)
        ends = [begins] * slots
        for _ in batch:
            length = lengths.draw(rng)
            heapq.heappush(ends, heapq.heappop(ends) + length)
            busy += length
        heapq.heappush(free, max(ends))
    return busy / (max(free) * slots * num_engines)


def print_policy(num_requests: int, slots: int, engines: Sequence[int], lengths: Lengths) -> None:
    """Print the shares of a rollout."""
    print("| engines | completions | batches of all slots | a batch for each engine |")
    print("|---|---|---|---|")
    for count in engines:
        shares = [
            policy(num_requests, slots, count, lengths, one_each=each) for each in (False, True)
        ]
        print(f"| {count} | {num_requests:,} | {shares[0]:.3f} | {shares[1]:.3f} |")


def main() -> None:
    """Print the shares."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--slots", type=int, default=256, help="of each engine")
    parser.add_argument("--engines", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--waves", type=int, default=50, help="requests for each slot")
    parser.add_argument("--requests", type=int, help="of all engines, in place of --waves")
    parser.add_argument("--median", type=float, default=3000.0, help="tokens of a completion")
    parser.add_argument("--most", type=int, default=32_768, help="tokens of a completion")
    parser.add_argument("--rollout", type=int, help="completions of a policy's rollout")
    asked = parser.parse_args()
    lengths = Lengths(asked.median, asked.most)
    if asked.rollout:
        print_policy(asked.rollout, asked.slots, asked.engines, lengths)
        return
    print("| engines | slots | requests | unit after unit | rejection | evaluation | one engine |")
    print("|---|---|---|---|---|---|---|")
    for count in asked.engines:
        slots = count * asked.slots
        units = max(1, (asked.requests or slots * asked.waves) // (PROBLEMS * SAMPLES))
        each = [asked.slots] * count
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            shares = [
                by_unit(SimulatedEngines(each, lengths), min(units, 40)),
                rejection(SimulatedEngines(each, lengths), units, folder),
                evaluation(SimulatedEngines(each, lengths), units, folder),
                evaluation(SimulatedEngines([slots], lengths), units, folder),
            ]
        cells = " | ".join(f"{share:.3f}" for share in shares)
        print(f"| {count} | {slots:,} | {units * PROBLEMS * SAMPLES:,} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
