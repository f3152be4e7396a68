"""What a run says: rate-limited lines without a terminal, a live bar on one."""

from __future__ import annotations

import io
import re

import pytest

from r1pipe.cli import console
from r1pipe.cli.console import LiveConsole, PlainConsole, plan_lines, values_text
from r1pipe.pipeline.planning import Plan, PlannedStage
from r1pipe.text import format_duration, format_number, sparkline, table_lines, visible


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that only moves when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(console, "time", clock)
    return clock


STAGE = PlannedStage("zero", "grpo", "run")


def test_plain_lines_come_every_five_seconds_and_at_the_end(clock: Clock) -> None:
    stream = io.StringIO()
    plain = PlainConsole(stream)
    plain.stage_started(STAGE)
    for step in range(1, 11):  # two seconds a step
        clock.now += 2
        plain.progress("zero", step, 10, {"reward": step / 10})
    # Lines at 6 s (step 3), 12 s (step 6), 18 s (step 9) and the last step, whatever the time.
    # Time left: 6 s for 3 steps, so 14 s for the other 7; 12 s for 6, so 8 s for 4; 2 s for 1.
    assert stream.getvalue().splitlines() == [
        "zero: starts (grpo)",
        "zero: step 3/10  reward 0.3  14.0 s left",
        "zero: step 6/10  reward 0.6  8.0 s left",
        "zero: step 9/10  reward 0.9  2.0 s left",
        "zero: step 10/10  reward 1",
    ]


def test_time_left_of_a_resumed_stage_counts_its_own_steps_only(clock: Clock) -> None:
    stream = io.StringIO()
    plain = PlainConsole(stream)
    plain.stage_started(PlannedStage("zero", "grpo", "resume"))
    for step in (91, 92, 93):
        clock.now += 2
        plain.progress("zero", step, 100, {})
    lines = stream.getvalue().splitlines()
    assert lines[0] == "zero: resumes (grpo)"
    assert lines[1].split("  ") == ["zero: step 93/100", "14.0 s left"]


def test_a_stage_without_a_known_end_shows_its_step(clock: Clock) -> None:
    stream = io.StringIO()
    plain = PlainConsole(stream)
    plain.stage_started(STAGE)
    clock.now += 6
    plain.progress("zero", 7, None, {"anything": 3.14159})
    assert stream.getvalue().splitlines()[1] == "zero: step 7  anything 3.142"


def test_a_finished_stage_says_what_came_out_and_a_hit_nothing_of_the_one_before() -> None:
    stream = io.StringIO()
    plain = PlainConsole(stream)
    plain.plan(Plan([PlannedStage("base", "pretrain", "run"), STAGE]))
    plain.stage_started(STAGE)
    plain.progress("zero", 3, 3, {"loss": 0.25, "reward": 1.5, "kl": 0.1, "tokens_per_s": 9.0})
    plain.stage_finished("zero", "done", 75, "ab" * 32)
    plain.stage_finished("base", "done", 1, "cd" * 32)
    *_, started, _, done, other = stream.getvalue().splitlines()
    assert started == "zero: starts (grpo), stage 2 of 2"
    assert done == "zero: done in 1 min 15 s  abababab  loss 0.25  reward 1.5"
    assert other == "base: done in 1.0 s  cdcdcdcd"


def test_work_inside_a_step_is_shown_now_and_then(clock: Clock) -> None:
    stream = io.StringIO()
    plain = PlainConsole(stream)
    plain.stage_started(STAGE)
    for number in range(4):
        clock.now += 3
        plain.doing("zero", "sampling", 48 * number, 1920)
    assert stream.getvalue().splitlines()[1:] == [
        "zero: sampling 48/1,920  6.0 s",
        "zero: sampling 144/1,920  12.0 s",
    ]


def test_well_known_values_come_first_and_named() -> None:
    values = {"kl": 0.1, "tokens_per_s": 12345.6, "pass_rate": 0.41239, "reward": 1}
    assert values_text(values) == "reward 1  pass rate 0.4124  12,346 tokens/s"
    assert values_text({"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}) == "a 1  b 2  c 3  d 4"


def test_a_plan_is_a_table_with_reasons() -> None:
    plan = Plan(
        [
            PlannedStage("base", "pretrain", "hit", artifact="ab" * 32),
            PlannedStage("zero", "grpo", "waits", waits_for=["base", "problems"], reason="why\x1b"),
        ]
    )
    assert plan_lines(plan) == [
        "STAGE  KIND      STATUS  ARTIFACT  WHY",
        "base   pretrain  hit     abababab",
        "zero   grpo      waits   -         why\\x1b; waits for base, problems",
    ]


def test_a_terminal_gets_a_live_bar_and_then_the_line_of_the_finished_stage() -> None:
    stream = Terminal()
    live = LiveConsole(stream)
    live.stage_started(STAGE)
    live.progress("zero", 3, 10, {"reward": 0.25, "[bold]": 1.0})
    live.bar.refresh()  # type: ignore[union-attr]
    live.doing("zero", "sampling", 48, 192)
    live.bar.refresh()  # type: ignore[union-attr]
    live.stage_finished("zero", "done", 75, "ab" * 32)
    live.message("[red]not markup[/red]")
    live.close()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    assert "3/10 reward 0.25" in text
    assert "sampling 48/192" in text
    assert "zero: done in 1 min 15 s  abababab  reward 0.25" in text
    assert "[red]not markup[/red]" in text
    assert stream.getvalue().endswith("\n")


@pytest.mark.parametrize(("total", "place"), [(25, "3/25"), (None, "3")])
def test_on_a_narrow_terminal_the_values_give_way_to_place_and_times(
    total: int | None, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    stream = Terminal()
    live = LiveConsole(stream)
    live.stage_started(STAGE)
    live.progress("zero", 3, total, {"loss": 0.1234, "reward": 0.25, "tokens_per_s": 4263.0})
    live.bar.refresh()  # type: ignore[union-attr]
    drawn = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue()).split("\r")[-1]
    live.close()
    assert len(drawn) <= 50
    assert re.fullmatch(rf"zero \S+ +{place} loss 0\.123\d?.*\u2026 +0:00:00 +(\S+)?\s*", drawn)


def test_what_is_asked_after_the_plan_can_stop_the_run() -> None:
    def refuse(plan: object) -> None:
        raise RuntimeError("asked")

    for make in (PlainConsole, LiveConsole):
        stream = Terminal()
        with pytest.raises(RuntimeError, match="asked"):
            make(stream, refuse).plan(Plan([STAGE]))
        assert "zero" in stream.getvalue()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain \u4e2d\u6587", "plain \u4e2d\u6587"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\u202eb", "a\\u202eb"),  # would turn the line around
        ("a\r\nb", "a\\r\\nb"),
        ("\ud800", "\\ud800"),  # half a character, from a model's bytes
    ],
)
def test_text_that_acts_on_a_terminal_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_numbers_and_times_are_short() -> None:
    assert [format_number(x) for x in (0.1 + 0.2, 1e9, float("nan"))] == [
        "0.3",
        "1,000,000,000",
        "nan",
    ]
    assert [format_duration(x) for x in (59.96, 3599.9)] == ["1 min 00 s", "1 h 00 min"]


def test_a_sparkline_is_the_mean_of_its_share_of_the_points() -> None:
    # Eight points in four bars: means 0.5, 2.5, 4.5, 6.5 of 0..7; bars 0, 2, 5, 7 of eight.
    assert sparkline(range(8), width=4) in ("\u2581\u2583\u2586\u2588", "_-*#")
    assert sparkline([3, 3, 3])[0] == sparkline([3])
    assert sparkline([float("nan")]) == ""


def test_columns_line_up_with_wide_characters() -> None:
    assert table_lines([("a", "b"), ("\u4e2d\u6587", "c")]) == ["a     b", "\u4e2d\u6587  c"]
