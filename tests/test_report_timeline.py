"""Timelines of sampling ahead: shares worked by hand, the picture, and the line of `show`."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from test_report import Tags, report

from r1pipe.cli.views import fact_lines
from r1pipe.report.page import render
from r1pipe.report.timeline import LEFT, MAX_DRAWN, WIDTH, Bar, Span, both_s, timeline_of


def row(number: int, *times: float) -> dict[str, float]:
    names = "sampled_from", "sampled_to", "trained_from", "trained_to"
    return {"rollout": number, **dict(zip(names, times, strict=True))}


ROWS = [row(0, 0, 4, 4, 6), row(1, 4, 7, 7, 9), row(2, 7, 10, 10, 12)]


def line(rows: Any = ROWS) -> Any:
    return timeline_of("zero", {"timeline": rows})


def test_shares_are_those_of_the_whole_time() -> None:
    # of 12 s sampling ran 10, training 6, and both from 4 to 6 and from 7 to 9
    assert line().summary == (
        "both sampling and training 33 % of the time, sampling 83 %, training 50 % (rollouts 0 to"
        " 2, 12.0 s)"
    )
    later = [row(7, 100, 101, 101, 103)]
    assert line(later).summary.startswith("both sampling and training 0 % of the time, sampling 33")


def test_what_spans_have_in_common_is_what_a_fine_clock_counts() -> None:
    ones = [Span(0, 3.5), Span(4, 4), Span(5, 9)]
    others = [Span(1, 2), Span(3, 6), Span(8.5, 12)]
    ticks = [n / 100 for n in range(1200)]
    both = [
        t for t in ticks if all(any(s.since <= t < s.until for s in ss) for ss in (ones, others))
    ]
    assert both_s(ones, others) == pytest.approx(len(both) / 100)


def test_a_lane_has_a_bar_for_each_rollout_where_it_was() -> None:
    (name, sampled), (other, trained) = line().lanes
    assert (name, other) == ("sampling", "training")
    second = WIDTH / 12
    assert sampled[1] == Bar(LEFT + 4 * second, 3 * second - 1, "1")
    assert trained[2] == Bar(LEFT + 10 * second, 2 * second - 1, "2")
    assert line().ticks[0] == (LEFT, "0.0 s")
    assert line().ticks[-1] == (LEFT + WIDTH, "12.0 s")


@pytest.mark.parametrize(
    ("seconds", "ticks"),
    [
        (0.35, ["0.0 s", "0.1 s", "0.2 s", "0.3 s"]),
        (20.5, ["0.0 s", "5.0 s", "10.0 s", "15.0 s", "20.0 s"]),
        (242.0, ["0.0 s", "1 min 00 s", "2 min 00 s", "3 min 00 s", "4 min 00 s"]),
        (600_000.0, ["0.0 s", "1 d 08 h", "2 d 16 h", "4 d 00 h", "5 d 08 h", "6 d 16 h"]),
    ],
)
def test_the_axis_has_round_times(seconds: float, ticks: list[str]) -> None:
    found = line([row(0, 0.0, seconds / 2, seconds / 2, seconds)]).ticks
    assert [text for _, text in found] == ticks
    apart = [(right - left) for (left, _), (right, _) in pairwise(found)]
    assert max(apart) - min(apart) < 1e-6


def test_a_thousand_rollouts_are_summed_and_the_last_ones_drawn() -> None:
    many = [row(n, n, n + 1, n + 1, n + 2) for n in range(1000)]
    assert "99.8" not in line(many).summary
    assert line(many).summary.startswith("both sampling and training 100 % of the time")
    assert [turn.number for turn in line(many).drawn.turns] == [*range(1000 - MAX_DRAWN, 1000)]
    thin = [row(0, 0, 1000, 1000, 1001), row(1, 1000, 1001, 1001, 1002)]
    assert [bar.label for bar in line(thin).lanes[0][1]] == ["0", ""]


@pytest.mark.parametrize(
    "noted",
    [
        None,
        "soon",
        [],
        [5, {}, {"rollout": 1}],
        [row(0, 0, math.nan, 1, 2)],
        [row(0, 3, 2, 1, 0)],
        [row(0, 0, 1, 1, 2) | {"sampled_to": "1"}],
    ],
)
def test_a_fact_that_is_no_timeline_draws_nothing(noted: Any) -> None:
    assert line(noted) is None


def test_the_picture_is_told_in_words_and_numbers() -> None:
    page = render(report())
    pictures = [a for tag, a in Tags(page).tags if tag == "svg" and a.get("role") == "img"]
    labels = [str(picture.get("aria-label")) for picture in pictures]
    (label,) = [each for each in labels if each.startswith("both sampling")]
    assert label.endswith("sampling 67 %, training 33 % (rollouts 0 to 0, 3.0 s)")
    assert '<th scope="row">0</th><td class="number">0.0 to 2.0</td>' in page


def test_the_rows_of_a_timeline_are_not_among_the_facts() -> None:
    assert fact_lines({"timeline": ROWS, "trained_tokens": 3}) == ["trained_tokens: 3"]
