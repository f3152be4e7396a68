"""What a run says: rate-limited lines without a terminal, a live bar on one."""

from __future__ import annotations

import io
import re

import pytest

from r1pipe.cli import console, progress_text
from r1pipe.cli.console import PlainConsole
from r1pipe.cli.live_view import Curve, LiveConsole, StageView
from r1pipe.cli.plan_view import plan_lines, short_plan_lines
from r1pipe.cli.progress_text import result_text, values_text
from r1pipe.cli.views import memory_text
from r1pipe.fitting import elided, fitted_lines
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
    monkeypatch.setattr(progress_text, "time", clock)
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


def test_time_left_does_not_count_what_came_before_the_first_step(clock: Clock) -> None:
    stream = io.StringIO()
    plain = PlainConsole(stream)
    plain.stage_started(STAGE)
    clock.now += 60  # imports
    for step in (1, 2, 3):
        clock.now += 3
        plain.progress("zero", step, 10, {})
    # Line at once, since 63 s went by; then 3 s a step, so 21 s for the other 7.
    assert stream.getvalue().splitlines()[1:] == ["zero: step 1/10", "zero: step 3/10  21.0 s left"]


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
    assert done == "zero: done in 1 min 15 s  abababab  reward 1.5"
    assert other == "base: done in 1.0 s  cdcdcdcd"


def test_the_last_line_of_a_training_says_that_nothing_was_learned() -> None:
    stream = io.StringIO()
    plain = PlainConsole(stream)
    plain.stage_started(STAGE)
    plain.progress("zero", 3, 3, {"reward": 0.0})
    facts = {"nothing_learned": "rewards never differed. Likely cause: too hard"}
    plain.stage_finished("zero", "done", 75, "ab" * 32, facts)
    assert stream.getvalue().splitlines()[-2:] == [
        "zero: done in 1 min 15 s  abababab  reward 0  NOTHING WAS LEARNED:",
        "  rewards never differed. Likely cause: too hard",
    ]


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
    assert values_text(values) == "reward 1  pass rate 0.4124  KL 0.1  12,346 tokens/s"
    assert values_text({"reward": 1, "loss": 1e-9}) == "reward 1"
    distilled = {"loss": 1e-9, "reward": 0, "pass_rate": 0.5, "kl": 0, "teacher_kl": 0.25}
    assert values_text(distilled) == "pass rate 0.5  KL to the teacher 0.25"
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


def test_a_result_is_the_scores_the_last_step_or_how_many_rows() -> None:
    step = {"pass_rate": 0.9, "tokens_per_s": 10.0}
    facts = {"reasoning": 0.3125, "safety": 0.0, "unusable_golds": {}}
    assert result_text("evaluate", step, facts) == "pass@1 reasoning 0.312"
    assert result_text("evaluate", step, {"easy": 0.0}) == "pass@1 easy 0.000"
    assert result_text("grpo", step, {"num_rows": 3}) == "pass rate 0.9"
    assert result_text("corpus", {}, {"num_rows": 12000}) == "12,000 rows"
    assert result_text("scoreboard", {}, {}) == ""
    for short, text in ((0, "4 kept"), (1234, "4 kept  1,234 short of target_rows")):
        assert result_text("rejection-sample", {"kept": 4}, {"rows_short_of_target": short}) == text


def test_a_mix_ends_with_its_rows() -> None:
    facts = {"general_rows": 64, "reasoning_rows": 96, "reasoning_short_of_quota": 0}
    assert result_text("mix", {}, facts) == "160 rows"


def test_a_short_reason_is_not_cut_either() -> None:
    stages = [PlannedStage("base", "pretrain", "resume", reason="goes on from step 1,200")]
    (_, row, *below) = short_plan_lines(Plan(stages), None, 40)
    assert "goes on from step 1,200" in " ".join([row, *below])


def test_neighbours_of_one_kind_share_a_row_of_the_short_plan() -> None:
    hits = [PlannedStage(name, name, "hit", artifact="ab" * 32) for name in ("a", "b")]
    waits = [
        PlannedStage(f"eval-{name}", "evaluate", "waits", waits_for=["a"], builds=True)
        for name in ("one", "two", "three")
    ]
    lines = short_plan_lines(Plan([*hits, *waits, STAGE]), None, 60)
    assert lines == [
        "STAGE              KIND      STATUS",
        "a + 1 more         2 kinds   hit",
        "eval-one + 2 more  evaluate  waits",
        "zero               grpo      run",
        "6 stages: 3 to build, 3 in the store; 'r1pipe plan",
        "  --verbose' has all of it",
    ]


def test_reasons_stand_below_their_rows_where_a_column_would_cut_them_short() -> None:
    reason = "params.lr changed since the last run: 0.001 -> 0.002 [own.yaml:3:4]"
    stages = [
        PlannedStage("rejection-sample-of-all", "rejection-sample", "run", reason=reason),
        PlannedStage("zero", "grpo", "run"),
    ]
    assert short_plan_lines(Plan(stages), None, 60)[:5] == [
        "STAGE                    KIND              STATUS",
        "rejection-sample-of-all  rejection-sample  run",
        "    params.lr changed since the last run: 0.001 -> 0.002",
        "    [own.yaml:3:4]",
        "zero                     grpo              run",
    ]
    wide = short_plan_lines(Plan(stages), None, 120)
    assert wide[1].endswith(f"run     {reason}")
    cut = short_plan_lines(Plan(stages), None, 100)
    assert len(cut) == len(wide), "most of the reason fits beside its row"


def test_a_missing_source_is_read_to_its_end_in_a_window_of_a_usual_width() -> None:
    reason = (
        "needs a source that is missing: manifests/own.yaml:12:3: source 'model': data/model does"
        " not exist; put it there or give another with --set sources.model.path=PATH"
    )
    stages = [PlannedStage("eval-base", "import-model", "run", reason=reason)]
    for width in (60, 80, 100, 120):
        lines = short_plan_lines(Plan(stages), None, width)
        assert reason in " ".join(line.strip() for line in lines[2:]), width
        assert max(map(len, lines)) <= width


def test_a_low_window_gets_the_first_rows_and_how_many_more_there_are() -> None:
    stages = [PlannedStage(f"s{number}", f"k{number}", "run") for number in range(30)]
    lines = short_plan_lines(Plan(stages), None, 80, 24)
    assert len(lines) == 1 + 14 + 2
    assert lines[-2] == "and 16 more"


def shown(text: str) -> list[str]:
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).split("\n")]


def test_a_terminal_gets_a_view_and_then_the_line_of_the_finished_stage() -> None:
    stream = Terminal()
    live = LiveConsole(stream)
    live.stage_started(STAGE)
    live.progress("zero", 3, 10, {"reward": 0.25, "[bold]": 1.0})
    live.doing("zero", "sampling", 48, 192)
    live.live.refresh()  # type: ignore[union-attr]
    live.stage_finished("zero", "done", 75, "ab" * 32)
    live.message("[red]not markup[/red]")
    live.close()
    text = "\n".join(shown(stream.getvalue()))
    assert "step 3 of 10" in text
    assert "sampling 48/192" in text
    assert re.search(r"reward +0\.25  \u2581", text), "a bar, though Live stands in for stdout"
    assert "zero: done in 1 min 15 s  abababab  reward 0.25" in text
    assert "[red]not markup[/red]" in text
    assert stream.getvalue().endswith("\n")


def drawn_of(view: StageView) -> str:
    from rich.console import Console as RichConsole

    stream = io.StringIO()
    RichConsole(file=stream, width=80, height=40).print(view.lines(80))
    return stream.getvalue()


@pytest.mark.parametrize(("width", "rows"), [(60, 6), (80, 3), (120, 3)])
def test_the_view_has_place_labelled_times_and_curves_and_fits(
    width: int, rows: int, clock: Clock
) -> None:
    from rich.console import Console as RichConsole

    view = StageView("zero", "stage 9 of 34")
    for step in range(1, 31):
        clock.now += 2
        rate = step / 30
        measures = {"pass_rate": rate, "completion_tokens": 28.0, "flat_group_frac": 0.5}
        others = {"kl": 1e-3, "tokens_per_s": 12068.0, "reward": rate, "loss": 0.0, "lr": 1.0}
        view.take(step, 120, measures | others)
    stream = io.StringIO()
    RichConsole(file=stream, width=width, height=40).print(view.lines(width))
    head, times, *numbers = stream.getvalue().rstrip("\n").split("\n")
    assert max(map(len, (head, times, *numbers))) <= width
    assert head.startswith("zero  stage 9 of 34")
    assert head.rstrip().endswith("step 30 of 120")
    # 60 s for 30 steps, so 180 s for the other 90
    assert times.startswith("  running 1 min 00 s   left 3 min 00 s")
    assert len(numbers) == rows
    text = "\n".join(numbers)
    for label in ("reward", "pass rate", "length", "flat groups", "KL", "tokens/s"):
        assert label in text
    assert "lr" not in text
    assert "\u2581" in text, "a curve is drawn in bars"
    view.take(31, 120, {"failed_units": 0.0})
    assert "units failed" not in drawn_of(view)
    assert "GPU" not in drawn_of(view)
    view.take(32, 120, {"peak_gpu_bytes": float(54 << 30)})
    assert "GPU 54.0 GiB" in drawn_of(view)
    assert memory_text(3 << 30, {"peak_gpu_bytes": 54 << 30}) == "3.0 GiB; on a GPU 54.0 GiB"
    assert memory_text(3 << 30, {}) == "3.0 GiB"
    assert "12,068" in text


def test_a_long_warning_is_broken_at_words(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    console = LiveConsole(stream)
    console.rich.width = 40
    console.message("zero: warning: only flat groups for four updates in a row\nAn example")
    assert stream.getvalue() == (
        "zero: warning: only flat groups for four\n  updates in a row\nAn example\n"
    )


def test_a_curve_of_a_long_run_takes_no_more_memory() -> None:
    curve = Curve()
    for value in range(100_000):
        curve.add(float(value))
    assert curve.last == 99_999
    assert 200 <= len(curve.points) < 400
    # Shares double whenever 400 are full: 256 values of each, whose first mean is that of 0 to 255.
    # (200 x 256 = 51,200 values fill the first half after the last doubling, 102,400 all of it.)
    assert curve.points[0] == 127.5


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


def test_a_table_fits_by_leaving_out_empty_columns_then_cutting_then_blocks() -> None:
    rows = [("STAGE", "COUNT", "WHY"), ("a", "0", "because of a very long reason"), ("b", "-", "")]
    assert fitted_lines(rows, None) == [
        "STAGE  WHY",
        "a      because of a very long reason",
        "b",
    ]
    cut, mark = fitted_lines(rows, 20), elided("ab", 1)[-1]
    assert cut[1].startswith("a      because of")
    assert cut[1].endswith(mark)
    assert max(map(len, cut)) <= 20
    wide = [("S", "ONE", "TWO"), ("a", "x" * 12, "y" * 12)]
    assert fitted_lines(wide, 24) == ["a", f"  ONE  {'x' * 12}", f"  TWO  {'y' * 12}"]
    wider = [("S", "ONE", "SIX", "TWO"), ("a", "x" * 12, "z" * 12, "y" * 12)]
    assert fitted_lines(wider, 31, spare=["ONE", "SIX"])[0].split() == ["S", "SIX", "TWO"]
    assert fitted_lines(wide, 24, spare=["ONE"]) == ["S  TWO", f"a  {'y' * 12}"]


def test_columns_line_up_with_wide_characters() -> None:
    assert table_lines([("a", "b"), ("\u4e2d\u6587", "c")]) == ["a     b", "\u4e2d\u6587  c"]
