"""Units that cannot be sampled: the others go on, and a resumed stage ends as without failures."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sampling_world import BySample, Streamed, english, files, half_texts, right, sample, wrong
from tiny import FakeContext

from r1pipe.errors import StageError
from r1pipe.generate.failures import SamplingFailed
from r1pipe.generate.protocol import Request
from r1pipe.records import Problem
from r1pipe.rejection.schedule import LAG
from r1pipe.rejection.sources import sample_seed

SEED = 3
ROUNDS = {"samples_per_round": 1, "enough_rows": 2, "hopeless_after": 2}


class Unsteady(BySample):
    """Fails where one of the seeds in `bad` is asked for; what it gave is in `given`."""

    def __init__(self, texts: dict[str, list[str]], asked: list[Problem]) -> None:
        super().__init__(texts, asked, SEED)
        self.bad: set[int] = set()
        self.given: list[int] = []
        self.num_failures = 0

    def generate(self, requests: Sequence[Request], sampling: Any) -> Any:
        for request, found in zip(requests, super().generate(requests, sampling), strict=True):
            if request.seed in self.bad:
                self.num_failures += 1
                raise SamplingFailed("the server is busy")
            self.given.append(request.seed)
            yield found


def seeds_of(asked: list[Problem], *places: int, index: int = 0) -> set[int]:
    """Return the seeds of some problems' samples with one number."""
    return {sample_seed(SEED, asked[place], index) for place in places}


def units_in(folder: Path) -> set[str]:
    return set(FakeContext(folder / "work").journal("candidates").done())


def test_a_failed_unit_does_not_stop_the_others_and_alone_is_sampled_on_resume(
    tmp_path: Path, monkeypatch: Any
) -> None:
    asked = english(20)  # ten units of two problems, two samples each
    whole = sample(tmp_path / "whole", Unsteady(half_texts(asked), asked), asked, monkeypatch)
    script = Unsteady(half_texts(asked), asked)
    script.bad = seeds_of(asked, 3, 12)  # in units 1 and 6
    message = "2 units could not be sampled; the others are kept, and `--resume` .* server is busy"
    with pytest.raises(StageError, match=message):
        sample(tmp_path, script, asked, monkeypatch)
    assert units_in(tmp_path) == {"0", "2", "3", "4", "5", "7", "8", "9"}
    script.bad, script.units = set(), []
    resumed = sample(tmp_path, script, asked, monkeypatch)
    assert script.units == [4, 4]
    assert files(resumed) == files(whole)
    assert resumed.notes == whole.notes


def test_failures_in_a_row_end_it_at_once_and_what_there_was_is_kept(
    tmp_path: Path, monkeypatch: Any
) -> None:
    asked = english(20)
    script = Unsteady(half_texts(asked), asked)
    script.bad = seeds_of(asked, 2, 6, 8, 10)  # units 1, 3, 4, 5
    with pytest.raises(StageError, match="4 units could not be sampled"):
        sample(tmp_path, script, asked, monkeypatch)
    assert script.units == [4] * 6
    assert units_in(tmp_path) == {"0", "2"}


def test_nothing_is_sampled_beyond_a_target_that_failed_units_may_reach(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """A kept row a problem, so 13 rows are reached in unit 6. Without unit 1 there are 2 + 6 in
    units 0 to 4; all four samples of unit 1 might be kept, so a ninth row decides."""
    asked = english(20)
    options: dict[str, Any] = {"target_rows": 13}
    steady = Unsteady(half_texts(asked), asked)
    whole = sample(tmp_path / "whole", steady, asked, monkeypatch, **options)
    script = Unsteady(half_texts(asked), asked)
    script.bad = seeds_of(asked, 2)
    with pytest.raises(StageError, match="1 unit could not be sampled"):
        sample(tmp_path, script, asked, monkeypatch, **options)
    assert units_in(tmp_path) == {"0", "2", "3", "4", "5"}
    script.bad = set()
    resumed = sample(tmp_path, script, asked, monkeypatch, **options)
    assert files(resumed) == files(whole)
    assert sorted(script.given) == sorted(steady.given), "each sample once, and no other"


@pytest.mark.parametrize("num_slots", [None, 6])
def test_adaptive_sampling_goes_on_as_far_as_it_needs_no_failed_result(
    tmp_path: Path, num_slots: int | None, monkeypatch: Any
) -> None:
    asked = english(60)  # thirty units in the first round
    texts = {p.prompt: [(right if i % 3 else wrong)(p), right(p, "b")] for i, p in enumerate(asked)}
    options: dict[str, Any] = {"adaptive": ROUNDS}
    steady = Unsteady(texts, asked)
    whole = sample(tmp_path / "whole", steady, asked, monkeypatch, **options)
    script = Unsteady(texts, asked)
    script.bad = seeds_of(asked, 20)  # unit 10
    generator = script if num_slots is None else Streamed(script, num_slots)
    with pytest.raises(StageError, match=r"^1 unit could not be sampled"):
        sample(tmp_path, generator, asked, monkeypatch, **options)
    if num_slots is None:
        assert max(map(int, units_in(tmp_path))) == 10 + LAG - 1
    else:
        assert 10 < max(map(int, units_in(tmp_path))) <= 10 + 8 * num_slots
    script.bad = set()
    resumed = sample(tmp_path, generator, asked, monkeypatch, **options)
    assert files(resumed) == files(whole)
    again = len(script.given) - len(steady.given)
    assert 0 <= again <= 4, "at most what was sampled of the failed unit before it failed"


def test_a_refusal_ends_it_at_once_and_what_was_sampled_is_kept(
    tmp_path: Path, monkeypatch: Any
) -> None:
    class Refusing(Unsteady):
        def generate(self, requests: Sequence[Request], sampling: Any) -> Any:
            if len(self.units) == 3:
                raise StageError("HTTP 401")
            return super().generate(requests, sampling)

    asked = english(12)
    with pytest.raises(StageError, match=r"^HTTP 401$"):
        sample(tmp_path, Refusing(half_texts(asked), asked), asked, monkeypatch)
    assert units_in(tmp_path) == {"0", "1", "2"}


@pytest.mark.parametrize(
    "end", [StageError("HTTP 401"), RecursionError("deep"), ValueError("odd"), MemoryError("full")]
)
@pytest.mark.parametrize(("num_slots", "kept"), [(None, {"0", "1"}), (8, {"0", "1", "2"})])
def test_whatever_ends_the_sampling_the_units_that_are_finished_are_kept(
    tmp_path: Path, end: Exception, num_slots: int | None, kept: set[str], monkeypatch: Any
) -> None:
    class Ending(Unsteady):
        """Ends in the last request of unit 2, or in unit 3 beside others that were given first."""

        def generate(self, requests: Sequence[Request], sampling: Any) -> Any:
            is_last = any(r.seed in self.bad for r in requests)
            yield from super().generate([r for r in requests if r.seed not in self.bad], sampling)
            if is_last:
                raise end

    asked = english(12)
    script = Ending(half_texts(asked), asked)
    script.bad = seeds_of(asked, 7 if num_slots else 5) | seeds_of(asked, 11)
    generator = Streamed(script, num_slots) if num_slots else script
    with pytest.raises(type(end), match=str(end)):
        sample(tmp_path, generator, asked, monkeypatch)
    assert units_in(tmp_path) == kept


def test_units_that_are_whole_when_another_fails_beside_them_are_kept(
    tmp_path: Path, monkeypatch: Any
) -> None:
    class Late(Unsteady):
        """Fails after all others were given, as a server with many requests under way does."""

        def generate(self, requests: Sequence[Request], sampling: Any) -> Any:
            yield from super().generate([r for r in requests if r.seed not in self.bad], sampling)
            if any(r.seed in self.bad for r in requests):
                raise SamplingFailed("the server is busy")

    asked = english(12)
    whole = sample(tmp_path / "whole", Unsteady(half_texts(asked), asked), asked, monkeypatch)
    script = Late(half_texts(asked), asked)
    script.bad = seeds_of(asked, 2)
    with pytest.raises(StageError, match="1 unit could not be sampled"):
        sample(tmp_path, Streamed(script, 12), asked, monkeypatch)
    assert units_in(tmp_path) == {"0", "2", "3", "4", "5"}
    script.bad = set()
    resumed = sample(tmp_path, Streamed(script, 12), asked, monkeypatch)
    assert files(resumed) == files(whole)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("adaptive", [None, ROUNDS | {"quotas": {"levels": {"1": 4}}}])
def test_any_failures_give_the_bytes_of_a_run_without(
    tmp_path: Path, seed: int, adaptive: Any, monkeypatch: Any
) -> None:
    rng = random.Random(seed)
    asked = [replace(p, level=i % 3) for i, p in enumerate(english(24))]
    choices: list[Callable[[Problem], str]]
    choices = [lambda p: right(p), wrong, lambda p: right(p, "b"), lambda p: right(p, "c")]
    texts = {p.prompt: [rng.choice(choices)(p) for _ in range(3)] for p in asked}
    options = {"adaptive": adaptive, "samples_per_problem": 3, "target_rows": rng.choice([20, 99])}
    whole = sample(tmp_path / "whole", Unsteady(texts, asked), asked, monkeypatch, **options)
    script = Unsteady(texts, asked)
    every = [sample_seed(SEED, p, i) for p in asked for i in range(3)]
    for _ in range(40):
        script.bad = set(rng.sample(every, 6))
        try:
            generator = rng.choice([script, Streamed(script, rng.randrange(1, 20), rng)])
            resumed = sample(tmp_path, generator, asked, monkeypatch, **options)
            break
        except StageError as error:
            if "could not be sampled" not in str(error):
                raise
    assert script.num_failures > 1
    assert files(resumed) == files(whole)
    assert json.dumps(resumed.notes, sort_keys=True) == json.dumps(whole.notes, sort_keys=True)
