"""Units as one stream: whole in any order, never a slot without a request while there are some."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sampling_world import Streamed
from test_process_labels import PROBLEMS, TABLE
from tiny import FakeContext, generator, model, problems, save_policy, stage, tokenizer

from r1pipe.errors import StageError
from r1pipe.generate.failures import FailedUnits, SamplingFailed
from r1pipe.generate.protocol import Request, Sampled, SamplingParams
from r1pipe.generate.streaming import streaming
from r1pipe.generate.units import FinishedUnit, PendingUnit, finished_units
from r1pipe.records import FinishReason
from r1pipe.rows import read_rows, write_problems, write_rows
from r1pipe.stage import Inputs

SAMPLING = SamplingParams()


class Numbers:
    """Answers each request with its seed as the only token; one of seed `fails_at` fails."""

    def __init__(self, fails_at: int = -1) -> None:
        self.fails_at = fails_at

    def generate(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Sampled]:
        for request in requests:
            if request.seed == self.fails_at:
                raise SamplingFailed("nobody is there", request.index)
            yield Sampled(request.index, [request.seed], [], FinishReason.STOP)


class OldestLast(Streamed):
    """Answers the request with the smallest seed only when nothing else is left."""

    def stream(self, requests: Iterator[Request | None], sampling: Any) -> Any:
        held: list[Request] = []
        while True:
            while len(held) < self.num_slots and (request := next(requests, None)) is not None:
                held.append(request)
            if not held:
                return
            self.most_under_way = max(self.most_under_way, len(held))
            held.sort(key=lambda request: request.seed)
            yield from self.script.generate([held.pop()], sampling)


def units(sizes: Sequence[int]) -> list[PendingUnit[str]]:
    """Return units whose requests have the seeds 0, 1, 2 and so on."""
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    return [
        PendingUnit(str(n), f"unit {n}", [Request((1,), start + i, i) for i in range(size)])
        for n, (start, size) in enumerate(zip(starts, sizes, strict=True))
    ]


def wholes(
    folder: Path, sampler: Any, asked: list[PendingUnit[str]], failed: FailedUnits | None = None
) -> list[FinishedUnit[str, int]]:
    def read(item: str, request: Request, sampled: Sampled) -> int:
        assert sampled.token_ids == [request.seed], "the request is that of the completion"
        return request.seed

    with streaming(sampler, FakeContext(folder), SAMPLING, 4) as stream:
        return list(finished_units(stream, iter(asked), read, failed or FailedUnits()))


@pytest.mark.parametrize("seed", range(5))
def test_every_unit_comes_once_with_its_own_completions(tmp_path: Path, seed: int) -> None:
    asked = units([3, 1, 0, 5, 2])
    for sampler in (Numbers(), Streamed(Numbers(), 4, random.Random(seed))):
        found = {
            each.name: each for each in wholes(tmp_path / type(sampler).__name__, sampler, asked)
        }
        assert {name: each.found for name, each in found.items()} == {
            each.name: {r.index: r.seed for r in each.requests} for each in asked
        }
        assert found["3"].item == "unit 3"


def test_a_long_completion_holds_up_its_own_unit_alone(tmp_path: Path) -> None:
    sampler = OldestLast(Numbers(), 3)
    found = wholes(tmp_path, sampler, units([2, 2, 2, 2, 2, 2]))
    assert [each.name for each in found] == ["1", "2", "3", "4", "5", "0"]
    assert sampler.most_under_way == 3


def test_units_are_asked_for_only_while_the_generator_could_want_requests(tmp_path: Path) -> None:
    drawn: list[str] = []

    def noted() -> Iterator[PendingUnit[str]]:
        for unit in units([2] * 50):
            drawn.append(unit.name)
            yield unit

    with streaming(Streamed(Numbers(), 4), FakeContext(tmp_path), SAMPLING, 4) as stream:
        next(finished_units(stream, noted(), lambda item, request, sampled: 0, FailedUnits()))
    assert len(drawn) <= 6, "four slots, and as many requests that wait"


def test_a_unit_that_fails_is_left_out_and_counted(tmp_path: Path) -> None:
    failed = FailedUnits()
    sampler = Streamed(Numbers(fails_at=3), 4)
    found = wholes(tmp_path, sampler, units([2, 2, 2, 2]), failed)
    assert sorted(each.name for each in found) == ["0", "2", "3"]
    with pytest.raises(StageError, match="1 unit could not be sampled"):
        failed.check()


# ---- stages --------------------------------------------------------------------------------------


def test_an_evaluation_as_one_stream_writes_what_unit_after_unit_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_policy(tmp_path / "model")
    for name, seed in (("easy", 1), ("hard", 2)):
        write_problems(tmp_path / name, problems(5, seed=seed))
    benchmarks = {name: tmp_path / name for name in ("easy", "hard")}
    kind = stage("evaluate")
    params = kind.params(
        seed=1, format="chat", num_samples=3, max_tokens=6, num_resamples=50, problems_per_unit=2
    )

    def results(name: str) -> tuple[str, list[dict[str, Any]]]:
        context = FakeContext(tmp_path / name)
        inputs = Inputs({"model": tmp_path / "model", "problems": benchmarks})
        kind.run(context, params, kind.run_model(), inputs)
        assert context.column("step") == [1, 2, 3, 4, 5, 6]
        report = (context.output("report") / "summary.json").read_text()
        return report, list(read_rows(context.output("samples")))

    by_unit = results("by unit")
    sampler = Streamed(generator(model()), 7, random.Random(1))

    @contextmanager
    def opened(*args: object) -> Iterator[Any]:
        yield sampler, tokenizer()

    monkeypatch.setattr("r1pipe.generate.backends.open_generator", opened)
    assert results("streamed") == by_unit
    assert sampler.most_under_way == 7, "more than the six requests of a unit"


def test_labels_of_steps_as_one_stream_are_those_of_unit_after_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "candidates", TABLE)
    write_problems(tmp_path / "problems", PROBLEMS)
    kind = stage("process-labels")
    params = kind.params(
        seed=1, num_continuations=2, max_tokens=6, labels="soft", candidates_per_unit=1
    )

    def results(name: str, num_slots: int) -> list[dict[str, Any]]:
        sampler: Any = generator(model())
        if num_slots:
            sampler = Streamed(sampler, num_slots, random.Random(1))

        @contextmanager
        def opened(*args: object) -> Iterator[Any]:
            yield sampler, tokenizer()

        monkeypatch.setattr("r1pipe.generate.backends.open_generator", opened)
        context = FakeContext(tmp_path / name)
        inputs = {each: tmp_path / each for each in ("candidates", "problems", "model")}
        kind.run(context, params, kind.run_model(), Inputs(inputs))
        assert not num_slots or sampler.most_under_way == num_slots
        return list(read_rows(context.output("rows")))

    assert results("streamed", 8) == results("by unit", 0)
