"""Sampling in rounds, within quotas, with a forecast and a report."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sampling_world import BySample, english, files, right, sample, table, wrong
from tiny import FakeContext

from r1pipe.errors import Interrupted
from r1pipe.records import Problem
from r1pipe.rejection.forecast import Forecast
from r1pipe.rejection.params import SampleParams
from r1pipe.rejection.report import cost_of_fixed
from r1pipe.rejection.schedule import Schedule
from r1pipe.rejection.writer import ProblemResult, UnitResult


def by_rounds(
    tmp_path: Path, monkeypatch: Any, adaptive: dict[str, Any], **changes: Any
) -> tuple[FakeContext, list[Problem]]:
    """Six problems, up to four samples: 0 always right, 1 never, 2 in its last sample, the others
    right in different words each time."""
    asked = [replace(p, level=i % 3) for i, p in enumerate(english(6))]
    texts = {p.prompt: [right(p, f"sum {i}") for i in range(4)] for p in asked}
    texts[asked[0].prompt] = [right(asked[0])] * 4
    texts[asked[1].prompt] = [wrong(asked[1])] * 4
    texts[asked[2].prompt] = [*[wrong(asked[2])] * 3, right(asked[2])]
    script = BySample(texts, asked, 3)
    values = {"samples_per_problem": 4, "problems_per_unit": 3, "adaptive": adaptive, **changes}
    return sample(tmp_path, script, asked, monkeypatch, **values), asked


def samples_of(context: FakeContext, asked: list[Problem]) -> list[int]:
    counts = Counter(row["problem_id"] for row in table(context))
    return [counts[p.id] for p in asked]


def test_rounds_leave_out_problems_with_enough_rows_and_hopeless_ones(
    tmp_path: Path, monkeypatch: Any
) -> None:
    rule = {"samples_per_round": 1, "enough_rows": 2, "hopeless_after": 3}
    context, asked = by_rounds(tmp_path, monkeypatch, rule)
    # 0: one text, again and again, is one row; 1 and 2: given up after three; the others: two rows
    assert samples_of(context, asked) == [4, 3, 3, 2, 2, 2]
    assert [row["id"] for row in table(context)][:7] == [
        *(f"{p.id}#0" for p in asked), f"{asked[0].id}#1"
    ]  # fmt: skip
    assert Counter(row["problem_id"] for row in table(context, "rows")) == {
        asked[0].id: 1, asked[3].id: 2, asked[4].id: 2, asked[5].id: 2
    }  # fmt: skip
    assert context.notes["problems"] == {"sampled": 1, "hopeless": 2, "enough": 3}
    assert context.notes["problems_without_rows"] == 2


def test_the_report_says_what_a_fixed_number_would_have_cost_and_who_lost_out(
    tmp_path: Path, monkeypatch: Any
) -> None:
    rule = {"samples_per_round": 1, "enough_rows": 2, "hopeless_after": 3}
    context, asked = by_rounds(tmp_path, monkeypatch, rule)
    report = json.loads((context.folder / "out/candidates/sampling.json").read_text())
    assert report["lost"] == {"hopeless": [asked[1].id, asked[2].id]}
    assert report["samples"] == 16
    # all six problems with four samples; rows: 4 x 1/4, nothing twice, and 3 x 4 x 2/2
    assert report["fixed_n"]["samples"] == 24
    assert report["fixed_n"]["rows"] == 13
    assert report["groups"]["arithmetic 1"] == {
        "problems": 2, "samples": 5, "rows": 2, "with_rows": 1, "not_reached": 0
    }  # fmt: skip
    assert context.notes["fixed_n"] == report["fixed_n"]


def test_fixed_sampling_ends_where_its_target_is_reached() -> None:
    params = SampleParams(seed=1, target_rows=10, samples_per_problem=4, max_tokens=9)
    schedule = Schedule(english(5), params)
    # of the second problem 2 samples, one new, 10 tokens; of all others nothing is known
    schedule.num_samples[1], schedule.num_new[1], schedule.num_tokens[1] = 2, 1, 10
    assert cost_of_fixed(schedule, 5) == {"samples": 12, "tokens": 60, "rows": 5}
    assert cost_of_fixed(schedule, 100) == {"samples": 20, "tokens": 100, "rows": 10}


QUOTAS = [
    ({"tasks": {"arithmetic": 3}}, 3),
    ({"levels": {"0": 2, "1": 1}}, 2 + 1 + 5),  # level 2: one of problem 2, four of problem 5
    ({"lengths": [{"up_to_tokens": 10_000, "max_rows": 5}]}, 5),
    ({"lengths": [{"up_to_tokens": 1, "max_rows": 0}]}, 14),  # shorter than anything: no bound
]


@pytest.mark.parametrize(("quotas", "kept"), QUOTAS)
def test_quotas_bound_the_kept_rows_and_end_the_sampling(
    tmp_path: Path, quotas: dict[str, Any], kept: int, monkeypatch: Any
) -> None:
    rule = {"samples_per_round": 1, "enough_rows": 9, "hopeless_after": 4, "quotas": quotas}
    context, _ = by_rounds(tmp_path, monkeypatch, rule)
    assert len(table(context, "rows")) == kept
    over = [row for row in table(context) if json.loads(row["filters"]).get("quota") is False]
    assert not any(row["kept"] for row in over)
    assert context.notes.get("dropped_quota", 0) == len(over)
    if kept == 3:
        assert len(table(context)) == 6, "full after the first round"


def test_adaptive_sampling_resumes_to_the_same_bytes(tmp_path: Path, monkeypatch: Any) -> None:
    rule = {"samples_per_round": 1, "enough_rows": 2, "hopeless_after": 3}
    whole, _ = by_rounds(tmp_path / "whole", monkeypatch, rule)
    for stop_after in (1, 2, 4):
        context = FakeContext(tmp_path / str(stop_after), stop_after=stop_after)
        with pytest.raises(Interrupted, match="stopped by the test"):
            by_rounds(tmp_path, monkeypatch, rule, context=context)
        context = FakeContext(tmp_path / str(stop_after))
        by_rounds(tmp_path, monkeypatch, rule, context=context)
        assert files(context) == files(whole)


def test_the_forecast_follows_the_yield() -> None:
    forecast = Forecast(target_rows=100)
    assert forecast.values(40) == ({"kept": 0.0, "tokens_per_s": 0.0}, 40.0)
    problem = ProblemResult(new_lengths=[0] * 5, num_tokens=80)
    forecast.add(UnitResult(20, 10, [problem], b""), is_sampled=False)
    values, samples = forecast.values(samples_left=1000)
    assert samples == 380  # 95 rows more, one in four
    assert values["target_tokens"] == 4 * 380
    assert values["forecast_rows"] == 100
    assert "target_s" not in values, "played back: nothing is known of the speed"
    assert forecast.values(samples_left=40)[0]["forecast_rows"] == 5 + 10
