"""Sampling goes on: after a kill to the very row, and to a higher target from earlier rows."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sampling_world import (
    BySample,
    Streamed,
    english,
    files,
    half_right,
    half_texts,
    right,
    sample,
    table,
    wrong,
)
from tiny import FakeContext, ScriptedGenerator, generator, model

from r1pipe.errors import Interrupted, StageError
from r1pipe.generate.protocol import Request
from r1pipe.records import Problem
from r1pipe.verify import VERIFIER_VERSION


def test_sampling_ends_with_the_unit_that_reaches_the_target(
    tmp_path: Path, monkeypatch: Any
) -> None:
    asked = english(8)
    script = half_right(asked)
    # two problems a unit, one kept row a problem: three rows are reached in the second unit
    context = sample(tmp_path, script, asked, monkeypatch, target_rows=3)
    assert script.units == [4, 4]
    assert [json.loads(row["filters"]).get("target") for row in table(context)][::2] == [
        True, True, True, False
    ]  # fmt: skip
    assert len(table(context, "rows")) == 3
    assert context.journal("candidates").done() == {"0", "1"}
    assert context.column("kept") == [2.0, 4.0]
    assert context.column("pass_rate") == [0.5, 0.5]


def test_units_that_are_sampled_together_give_the_same_bytes(
    tmp_path: Path, monkeypatch: Any
) -> None:
    asked = english(9)
    apart = sample(tmp_path / "apart", half_right(asked), asked, monkeypatch)
    script = Streamed(half_right(asked), 6, random.Random(1))
    together = sample(tmp_path / "together", script, asked, monkeypatch)
    assert files(together) == files(apart)
    assert script.most_under_way == 6, "five units of four (and two) requests"


@pytest.mark.parametrize("units_before_the_kill", [1, 3])
def test_a_resumed_stage_writes_the_bytes_of_the_uninterrupted_one(
    tmp_path: Path, units_before_the_kill: int, monkeypatch: Any
) -> None:
    asked = english(8)
    sampler = MostlyRight(generator(model()), asked)
    options: dict[str, Any] = {"max_tokens": 60}
    whole = sample(tmp_path / "whole", sampler, asked, monkeypatch, **options)
    killed = FakeContext(tmp_path / "killed", stop_after=units_before_the_kill)
    with pytest.raises(Interrupted, match="stopped by the test"):
        sample(tmp_path, sampler, asked, monkeypatch, context=killed, **options)
    resumed = FakeContext(tmp_path / "killed")
    sample(tmp_path, sampler, asked, monkeypatch, context=resumed, **options)
    assert files(resumed) == files(whole)
    assert len(resumed.logged) == 4 - units_before_the_kill
    assert len({row["completion"] for row in table(whole)}) > 12, "random texts, not one"


class MostlyRight:
    """A sampler whose texts are random, with a right answer behind most of them."""

    def __init__(self, inner: Any, asked: list[Problem]) -> None:
        self.inner = inner
        self.script = half_right(asked)

    def generate(self, requests: Sequence[Request], sampling: Any) -> Any:
        texts = {each.index: each for each in self.script.generate(requests, sampling)}
        for found in self.inner.generate(requests, sampling):
            yield found if found.index % 2 else texts[found.index]


def test_a_resumed_stage_stops_where_the_uninterrupted_one_did(
    tmp_path: Path, monkeypatch: Any
) -> None:
    asked = english(8)
    killed = FakeContext(tmp_path / "work", stop_after=1)
    with pytest.raises(Interrupted, match="stopped by the test"):
        sample(tmp_path, half_right(asked), asked, monkeypatch, context=killed, target_rows=3)
    for units in ([4], []):
        script = half_right(asked)
        sample(tmp_path, script, asked, monkeypatch, target_rows=3)
        assert script.units == units


def test_a_candidate_writer_that_dies_ends_the_stage_with_a_word_about_it(
    tmp_path: Path, monkeypatch: Any
) -> None:
    class Deadly(BySample):
        def generate(self, requests: Sequence[Request], sampling: Any) -> Any:
            for child in started:
                child.kill()
                child.wait()
            return super().generate(requests, sampling)

    started: list[Any] = []
    begin = subprocess.Popen

    def noted(*arguments: Any, **options: Any) -> Any:
        started.append(begin(*arguments, **options))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", noted)
    asked = english(2)
    with pytest.raises(StageError, match=r"ended early \(killed, or out of memory\); go on with"):
        sample(tmp_path, Deadly(half_texts(asked), asked, 3), asked, monkeypatch)


def test_rows_that_another_verifier_decided_are_verified_again_on_resume(
    tmp_path: Path, monkeypatch: Any
) -> None:
    asked = english(4)
    whole = sample(tmp_path / "whole", half_right(asked), asked, monkeypatch)
    killed = FakeContext(tmp_path / "work", stop_after=1)
    with pytest.raises(Interrupted, match="stopped by the test"):
        sample(tmp_path, half_right(asked), asked, monkeypatch, context=killed)
    path = killed.folder / "candidates.jsonl"
    old = path.read_text().replace('"verdict": "correct"', '"verdict": "wrong"')
    assert old != path.read_text()
    version = f'"verifier_version": {VERIFIER_VERSION}'
    path.write_text(old.replace(version, '"verifier_version": 0'))
    resumed = sample(tmp_path, half_right(asked), asked, monkeypatch)
    assert files(resumed) == files(whole)


@pytest.mark.parametrize("adaptive", [None, {"samples_per_round": 1, "enough_rows": 1}])
def test_a_raised_target_reuses_every_candidate_and_ends_as_if_begun_with_it(
    tmp_path: Path, adaptive: Any, monkeypatch: Any
) -> None:
    asked = english(12)
    options: dict[str, Any] = {"samples_per_problem": 3, "adaptive": adaptive}
    small = sample(
        tmp_path / "small", half_right(asked), asked, monkeypatch, target_rows=3, **options
    )
    afresh = half_right(asked)
    whole = sample(tmp_path / "whole", afresh, asked, monkeypatch, target_rows=9, **options)
    grown = FakeContext(tmp_path / "grown")
    grown.earlier_result = small.folder / "out"
    script = half_right(asked)
    sample(tmp_path, script, asked, monkeypatch, context=grown, target_rows=9, **options)
    assert files(grown) == files(whole)
    reused = len(table(small))
    assert grown.notes["reused_candidates"] == reused > 0
    assert sum(script.units) == sum(afresh.units) - reused


def test_a_raised_target_that_is_stopped_still_reuses_what_it_had_not_come_to(
    tmp_path: Path, monkeypatch: Any
) -> None:
    asked = english(12)
    small = sample(tmp_path / "small", half_right(asked), asked, monkeypatch, target_rows=8)
    whole = sample(tmp_path / "whole", half_right(asked), asked, monkeypatch)
    script = half_right(asked)
    for stop_after in (2, 0):
        grown = FakeContext(tmp_path / "grown", stop_after=stop_after)
        grown.earlier_result = small.folder / "out"
        try:
            sample(tmp_path, script, asked, monkeypatch, context=grown)
        except Interrupted:
            assert grown.journal("candidates").done() == {"0", "1"}
    assert files(grown) == files(whole)
    assert script.units == [4, 4], "four of six units were there"
    assert grown.notes["reused_candidates"] == 8, "two units in each run"


def test_candidates_of_other_seeds_are_not_taken_over(tmp_path: Path, monkeypatch: Any) -> None:
    asked = english(4)
    other = ScriptedGenerator({p.prompt: [right(p), wrong(p)] for p in asked}, "chat")
    small = sample(tmp_path / "small", other, asked, monkeypatch, target_rows=1, seed=4)
    grown = FakeContext(tmp_path / "grown")
    grown.earlier_result = small.folder / "out"
    script = half_right(asked)
    sample(tmp_path, script, asked, monkeypatch, context=grown)
    assert sum(script.units) == 8
    assert "reused_candidates" not in grown.notes
