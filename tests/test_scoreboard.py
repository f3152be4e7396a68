"""The scoreboard: every benchmark of every report, paired differences, tables that fit."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import FakeContext, stage

from r1pipe.cli.scores_view import score_lines
from r1pipe.errors import StageError
from r1pipe.evaluation.board_text import render_markdown, render_text, report_table, tables
from r1pipe.evaluation.metrics import summarise
from r1pipe.evaluation.scoreboard import build, model_of
from r1pipe.stage import Inputs

GOOD = r"<think>a</think> so \boxed{5}"


def summary(right: dict[str, list[bool]], **scores: dict[str, float]) -> dict[str, Any]:
    """Return the summary of problems whose samples are right or not."""
    rows = [
        {
            "problem_id": problem, "task": "t", "language": "en", "checker": "number",
            "verdict": "correct" if is_right else "wrong", "extracted": "5" if is_right else "6",
            "num_tokens": 10, "finish_reason": "stop", "completion": GOOD,
        }
        for problem, samples in right.items()
        for is_right in samples
    ]  # fmt: skip
    made = summarise(rows, num_resamples=50)
    passed = {problem: sum(samples) / len(samples) for problem, samples in right.items()}
    return made | {"by_problem": {"pass@1": passed, **scores}}


def report(**benchmarks: Any) -> dict[str, Any]:
    return {"benchmarks": benchmarks}


BASE = report(
    easy=summary({"a": [True, False], "b": [False, False]}),
    gsm8k=summary({"x": [False, True]}, helpful={"x": 0.0}),
)
AFTER = report(
    easy=summary({"a": [True, True], "b": [True, False]}),
    gsm8k=summary({"y": [True, True]}, helpful={"y": 0.5}),
    aime=summary({"z": [False, False]}),
)


def board(**more: Any) -> Any:
    reports = {"base": BASE, "after": AFTER}
    return build(reports, ["base", "after"], {"after": "base"}, 0, **more)


def test_every_benchmark_of_every_report_is_on_the_board() -> None:
    values = board()["values"]
    assert values["base"]["easy"]["pass@1"]["value"] == 0.25
    assert values["after"]["easy"]["pass@1"]["value"] == 0.75
    assert values["after"]["easy"]["maj@2"]["value"] == pytest.approx((1 + 0.5) / 2)
    assert values["after"]["gsm8k"]["helpful"]["value"] == 0.5
    assert "aime" not in values["base"]
    text = render_text(board())
    for name in ("easy", "gsm8k", "gsm8k helpful", "aime", "pass@2", "maj@2"):
        assert name in text


def test_differences_are_paired_for_every_benchmark_that_both_have() -> None:
    differences = board()["paired"]["after"]["differences"]
    assert set(differences) == {"easy", "gsm8k"}
    # a: 1 - 0.5, b: 0.5 - 0
    assert differences["easy"]["pass@1"]["mean"] == 0.5
    assert differences["easy"]["pass@1"]["num_problems"] == 2
    assert differences["gsm8k"] == {"pass@1": None, "helpful": None}
    (paired,) = [t for t in tables(board()) if t.title.startswith("What each stage bought")]
    assert paired.header == ["model", "against", "easy", "gsm8k", "gsm8k helpful"]
    assert paired.rows == [
        ["after", "base", "+0.500 [+0.500, +0.500]*", "no shared problem", "no shared problem"]
    ]


@pytest.mark.parametrize(
    ("reports", "models"),
    [({"base": report()}, ["base"]), ({"base": BASE}, []), ({}, ["base"])],
)
def test_a_board_that_would_be_empty_is_an_error(reports: Any, models: list[str]) -> None:
    with pytest.raises(StageError, match=r"the scoreboard would be empty: the reports of"):
        build(reports, models, {}, 0)


def test_columns_of_zeros_are_named_below_and_pass_at_1_stays_in_the_artifact() -> None:
    by_title = {table.title: table for table in tables(board())}
    scores = by_title["pass@1 (value +- half of the 95 % interval)"]
    assert scores.header == ["model", "easy", "gsm8k", "gsm8k helpful", "aime"]
    assert scores.rows[0] == ["base", "0.250 +-0.250", "0.500 +-0.000", "0.000 +-0.000", "-"]
    assert scores.remarks == ["rough intervals, of few problems: easy (2), gsm8k (1), aime (1)"]
    form = by_title["easy: the completions"]
    assert form.header == ["model", "pass@2", "maj@2", "format", "language", "tokens"]
    assert form.remarks == ["zero in every row: truncated, no answer"]


def test_a_terminal_is_spared_pass_at_1_of_what_no_model_solved() -> None:
    by_title = {table.title: table for table in tables(board(), zeros=False)}
    scores = by_title["pass@1 (value +- half of the 95 % interval)"]
    assert scores.header == ["model", "easy", "gsm8k", "gsm8k helpful"], "aime: 0 of 1"
    assert scores.rows[0] == ["base", "0.250 +-0.250", "0.500 +-0.000", "0.000 +-0.000"]
    assert scores.remarks[0] == "zero in every row: aime"


def test_a_table_whose_every_column_is_zero_is_its_title_and_the_line_that_says_so() -> None:
    nothing = report(hard=summary({"z": [False, False], "y": [False, False]}))
    made = build({"base": nothing}, ["base"], {}, 0)
    text = render_text(made, 60, zeros=False)
    title = "pass@1 (value +- half of the 95 % interval)"
    assert text.startswith(f"{title}\n  zero in every row: hard\n")
    assert "hard" in tables(made)[0].header, "the artifact's files stay"


def test_show_and_the_end_of_a_run_leave_out_what_is_zero(tmp_path: Path) -> None:
    (tmp_path / "scoreboard.json").write_text(json.dumps(board()))
    store = SimpleNamespace(has_artifact=lambda _: True, output_dir=lambda *_: tmp_path)
    lines = score_lines(SimpleNamespace(kind="scoreboard"), store, 80)  # type: ignore[arg-type]
    assert "  zero in every row: aime" in lines
    assert not [line for line in lines[:4] if "aime" in line]


HARNESS = {
    "base": {
        "scores": {
            "mmlu acc": {"value": 0.4, "stderr": 0.01, "low": 0.3804, "high": 0.4196},
            "arc acc": {"value": 0.5, "stderr": None, "low": None, "high": None},
        }
    }
}


def test_scores_of_a_harness_are_columns() -> None:
    made = board(harness=HARNESS)
    assert made["harness"]["base"]["mmlu acc"]["value"] == 0.4
    (table,) = [t for t in tables(made) if "lm-evaluation-harness" in t.title]
    assert table.header == ["model", "mmlu acc", "arc acc"]
    assert table.rows == [["base", "0.400 +-0.020", "0.500"]]


def test_a_board_of_a_harness_alone_is_not_empty() -> None:
    made = build({}, ["base"], {}, 0, HARNESS)
    assert [table.rows for table in tables(made)] == [[["base", "0.400 +-0.020", "0.500"]]]


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_tables_fit_the_terminal_and_hold_every_cell(width: int) -> None:
    made = board(harness=HARNESS)
    text = render_text(made, width)
    assert max(len(line) for line in text.split("\n")) <= width
    for table in tables(made):
        for cell in (*table.header, *[cell for row in table.rows for cell in row]):
            assert cell in text


def test_names_from_outside_cannot_move_the_cursor_or_break_a_table() -> None:
    odd = {"base": report(**{"a|b\x1b[2J": BASE["benchmarks"]["easy"]})}
    made = build(odd, ["base"], {}, 0)
    assert "\x1b" not in render_text(made)
    markdown = render_markdown(made)
    assert "\x1b" not in markdown
    assert r"a\|b\x1b[2J" in markdown


def test_a_report_of_a_harness_belongs_to_the_longest_name_that_fits() -> None:
    models = ["r1", "r1-distill", "base"]
    assert model_of("r1", models) == "r1"
    assert model_of("r1-mmlu", models) == "r1"
    assert model_of("r1-distill", models) == "r1-distill"
    assert model_of("r1-distill-mmlu", models) == "r1-distill"
    with pytest.raises(StageError, match=r"inputs.benchmarks.zero-mmlu belongs to no model"):
        model_of("zero-mmlu", models)


def test_the_stage_reads_both_kinds_of_reports(tmp_path: Path) -> None:
    paths = {}
    for name, made in (("base", BASE), ("after", AFTER)):
        paths[name] = tmp_path / name
        paths[name].mkdir()
        (paths[name] / "summary.json").write_text(json.dumps(made))
    for name, task in (("mmlu", "mmlu"), ("arc", "arc")):
        (tmp_path / name).mkdir()
        score = HARNESS["base"]["scores"][f"{task} acc"]
        found = {"scores": {"acc": score}, "is_shown": True, "num_samples": 9, "num_shots": 0}
        document = {"version": "0.4.13", "tasks": {task: found}}
        (tmp_path / name / "harness.json").write_text(json.dumps(document))
    kind, context = stage("scoreboard"), FakeContext(tmp_path / "work")
    params = kind.params(models=("base", "after", "other"), before={"after": "base"})
    reports = paths | {"other": tmp_path / "arc"}
    benchmarks = {"base-mmlu": tmp_path / "mmlu"}
    inputs = Inputs({"reports": reports, "benchmarks": benchmarks})
    kind.run(context, params, kind.run_model(), inputs)
    made = json.loads((context.output("report") / "scoreboard.json").read_text())
    assert list(made["harness"]) == ["base", "other"]
    text = (context.output("report") / "scoreboard.txt").read_text()
    assert "mmlu acc" in text
    assert "arc acc" in text


def test_a_report_is_a_table_of_its_benchmarks() -> None:
    golds = {"count": 1, "rate": 0.5, "verdicts": {"gold_unusable": 1}, "first": ["q: '' bad"]}
    easy = BASE["benchmarks"]["easy"] | {"unusable_golds": golds}
    table = report_table(report(easy=easy, gsm8k=BASE["benchmarks"]["gsm8k"]))
    named = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    assert named[0]["pass@1"] == "0.250 [0.000, 0.500]"
    assert "truncated" not in named[0]
    assert table.remarks[0] == "zero in every row: truncated, no answer"
    assert [row["unusable golds"] for row in named] == ["1", "-"]
    assert [row["problems"] for row in named] == ["2", "1"]
    assert table.remarks[2] == "an unusable gold answer: q: '' bad"
