"""Problems from data sets: shapes found or told, one reading of each value, every row counted."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from data_forms import lines, parquet, place, saved, separated

from r1pipe.data.problem_sets import (
    NO_SELF,
    OTHER_GOLD,
    LoadReport,
    Rules,
    columns_of,
    found_in,
    load_problems,
    split_gold,
)
from r1pipe.data.problem_shapes import ProblemColumns, answer_text, detect, prompt_text
from r1pipe.errors import SourceError, StageError
from r1pipe.files import first_records
from r1pipe.records import Problem, Row, Verdict
from r1pipe.verify import verify

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"

ROWS = [
    {"question": "What is 2+3?", "answer": "2+3=<<2+3=5>>5 apples.\n#### 5"},
    {"question": "What is 4+4?", "answer": "It is 8.\n#### 8"},
    {"question": "What is 2+3?", "answer": "Another way.\n#### 5"},
    {"question": "Half of x?", "answer": "Divide.\n#### x/2"},
]


def write(path: Path, rows: list[Row]) -> Path:
    path.write_bytes(lines(rows))
    return path


def load(
    path: Path, limit: int | None = None, seed: int = 0, told: Any = None, **more: Any
) -> tuple[list[Problem], LoadReport]:
    columns = columns_of(path, first_records(path), told and ProblemColumns("told", *told))
    return load_problems(path, Rules(columns, **more), limit, seed)


def test_gold_and_solution_are_split_and_duplicates_dropped(tmp_path: Path) -> None:
    problems, report = load(write(tmp_path / "a.jsonl", ROWS))
    assert [p.prompt for p in problems] == ["What is 2+3?", "What is 4+4?", "Half of x?"]
    assert [p.gold for p in problems] == ["5", "8", "x/2"]
    assert problems[0].solution == "2+3=5 apples."  # calculator marks are gone
    assert [p.checker for p in problems] == ["number", "number", "math"]
    assert (report.num_read, report.num_kept, report.num_duplicates) == (4, 3, 1)


def test_every_form_gives_the_same_problems(tmp_path: Path) -> None:
    expected = load(write(tmp_path / "a.jsonl", ROWS))[0]
    forms = {"a.parquet": parquet(ROWS), "a.csv": separated(ROWS), "a.tsv": separated(ROWS, "\t")}
    place(tmp_path, forms)
    place(tmp_path / "saved", saved(ROWS))
    for name in (*forms, "saved"):
        assert load(tmp_path / name)[0] == expected


def test_ids_survive_reordering(tmp_path: Path) -> None:
    forward = load(write(tmp_path / "a.jsonl", ROWS))[0]
    backward = load(write(tmp_path / "b.jsonl", ROWS[::-1]))[0]
    assert {p.id for p in forward} == {p.id for p in backward}
    assert len({p.id for p in forward}) == 3


def test_a_limit_draws_by_seed_and_keeps_the_order(tmp_path: Path) -> None:
    rows = [{"question": f"Q{i}?", "answer": f"#### {i}"} for i in range(50)]
    path = write(tmp_path / "a.jsonl", rows)
    first, report = load(path, limit=10, seed=1)
    assert first == load(path, limit=10, seed=1)[0]
    assert first != load(path, limit=10, seed=2)[0]
    assert [int(p.gold) for p in first] == sorted(int(p.gold) for p in first)
    assert report.num_past_limit == 40


SPLITS = [
    ("a\n#### 1,000", "hash", ("a", "1,000", "")),
    ("#### 7", "hash", (None, "7", "")),
    ("no mark", "hash", (None, "", "no #### in the answer")),
    ("a ####  ", "hash", ("a", "", "empty gold answer")),
    (r"so \boxed{\frac{1}{2}}.", "boxed", (r"so \boxed{\frac{1}{2}}.", r"\frac{1}{2}", "")),
    ("no box", "boxed", (None, "", "no box in the answer")),
    (" 12 ", "column", (None, "12", "")),
    ("$ $", "column", (None, "$ $", "empty gold answer")),
]


@pytest.mark.parametrize(("answer", "gold", "expected"), SPLITS)
def test_gold_answers_are_taken_from_their_place(answer: str, gold: Any, expected: Any) -> None:
    assert split_gold(answer, gold) == expected


def test_unusable_golds_are_counted_or_stop_the_stage(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*ROWS, {"question": "Q", "answer": "no mark"}])
    note = load(path, max_unusable_frac=0.2)[1].as_note()
    where = {"count": 1, "first": ["a.jsonl:5"]}
    assert note["unusable_golds"] == {"no #### in the answer": where}
    assert note["unusable_gold_frac"] == 0.2
    match = (
        r"1 of 5 rows cannot be used \(1 x no #### in the answer \(first at a.jsonl:5\)\); check"
        r" columns, or raise params.columns.max_unusable_frac \(now 0.19\)"
    )
    with pytest.raises(StageError, match=match):
        load(path, max_unusable_frac=0.19)


@pytest.mark.parametrize(
    ("gold", "is_worded"),
    [
        ("the battle of Hastings", True),
        ("William the Conqueror", True),
        ("Paris", False),
        ("x and y", False),
        ("\\text{three green apples}", False),
        ("one hundred and twenty", True),  # a number, but not in those digits
    ],
)
def test_a_plan_says_which_gold_answers_can_be_said_in_other_words(
    tmp_path: Path, gold: str, is_worded: bool
) -> None:
    path = write(
        tmp_path / "a.jsonl",
        [{"question": "who?", "answer": gold}, {"question": "1+1?", "answer": 2}],
    )
    rows, rules = first_records(path), Rules(ProblemColumns("told", "question", "answer", "column"))
    said = found_in(path, rows, rules)
    assert (
        "; gold answers of several words: 1; the same in other words is wrong" in said
    ) == is_worded
    judged = found_in(path, rows, replace(rules, checked_by="judge"))
    assert "several words" not in judged


def test_questions_over_max_chars_are_left_out_and_counted_before_the_limit_draws(
    tmp_path: Path,
) -> None:
    rows = [{"question": "Q" * n, "answer": f"#### {n}"} for n in range(1, 21)]
    path = write(tmp_path / "a.jsonl", rows)
    kept, report = load(path, limit=10, max_chars=10)
    assert [len(problem.prompt) for problem in kept] == list(range(1, 11))
    assert report.as_note()["num_over_max_chars"] == 10
    assert report.num_past_limit == 0
    with pytest.raises(StageError, match=r"none of its 20 rows is a problem \(20 have more than"):
        load(
            write(tmp_path / "b.jsonl", [{**row, "question": "Q" * 99 + str(row)} for row in rows]),
            max_chars=10,
        )


def test_null_empty_and_other_bad_rows_are_counted_by_reason(tmp_path: Path) -> None:
    rows: list[Row] = [
        *ROWS,
        {"question": None, "answer": "#### 1"},
        {"question": "  ", "answer": "#### 1"},
        {"question": 7, "answer": "#### 1"},
        {"question": "null answer", "answer": None},
        {"answer": "#### 1"},
    ]
    path = write(tmp_path / "a.jsonl", rows)
    problems, report = load(path, max_bad_frac=0.5, max_unusable_frac=0.5)
    assert len(problems) == 3
    assert json.loads(json.dumps(report.as_note()["bad_rows"])) == {
        "the prompt is null": {"count": 1, "first": ["a.jsonl:5"]},
        "the prompt is empty": {"count": 1, "first": ["a.jsonl:6"]},
        "the prompt is a number": {"count": 1, "first": ["a.jsonl:7"]},
        "the prompt is missing": {"count": 1, "first": ["a.jsonl:9"]},
    }
    assert dict(report.unusable.counts) == {"the answer is null": 1}
    with pytest.raises(StageError, match=r"4 of 9 rows .*or raise max_bad_frac \(now 0.4\)"):
        load(path, max_bad_frac=0.4, max_unusable_frac=0.5)


def test_only_the_first_ten_places_of_a_reason_are_named(tmp_path: Path) -> None:
    rows: list[Row] = [{"question": "", "answer": "#### 1"}] * 30
    report = load(write(tmp_path / "a.jsonl", [*ROWS, *rows]), max_bad_frac=1.0)[1]
    assert report.bad.as_note()["bad_rows"]["the prompt is empty"]["first"] == [
        f"a.jsonl:{row}" for row in range(5, 15)
    ]


def test_a_prompt_is_kept_once_and_another_answer_to_it_is_a_bad_row(tmp_path: Path) -> None:
    rows = [
        {"question": "What is 2+3?", "answer": "5"},
        {"question": " What is  2+3?\n", "answer": "5.0"},
        {"question": "What is 2+3? ", "answer": "6"},
    ]
    problems, report = load(write(tmp_path / "a.jsonl", rows), max_bad_frac=0.5)
    assert [(p.prompt, p.gold) for p in problems] == [("What is 2+3?", "5")]
    assert report.num_duplicates == 1
    assert report.bad.places == {OTHER_GOLD: ["a.jsonl:3"]}


def test_gold_answers_are_checked_against_themselves(tmp_path: Path) -> None:
    rows = [
        {"problem": "a", "answer": r"\frac{1}{2}"},
        {"problem": "b", "answer": r"p \land q"},
        {"problem": "c", "answer": "7"},
    ]
    path = write(tmp_path / "a.jsonl", rows)
    problems, report = load(path, max_unusable_frac=0.5)
    assert [p.prompt for p in problems] == ["a", "c"]
    assert report.unusable.places == {NO_SELF: ["a.jsonl:2"]}
    with pytest.raises(StageError, match=NO_SELF):
        load(path)


def test_a_data_set_without_a_problem_fails(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"question": "", "answer": "1"}])
    with pytest.raises(StageError, match="none of its 1 rows is a problem"):
        load(path, max_bad_frac=1.0)


VERL = {
    "data_source": "x",
    "prompt": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 2+3?"},
    ],
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "5"},
    "extra_info": {"answer": "2+3 is 5", "index": 0},
}
SHAPES: dict[str, tuple[Row, tuple[str, str, str | None]]] = {
    "GSM8K": (
        {"question": "What is 2+3?", "answer": "It is 5.\n#### 5"},
        ("What is 2+3?", "5", "It is 5."),
    ),
    "MATH": (
        {"problem": "Half of x?", "level": "Level 1", "solution": r"So \boxed{x/2}."},
        ("Half of x?", "x/2", r"So \boxed{x/2}."),
    ),
    "verl": (VERL, ("Be brief.\n\nWhat is 2+3?", "5", None)),
    "OpenR1-Math": (
        {
            "problem": "What is 2+3?",
            "solution": r"It is $\boxed{5}$.",
            "answer": "5",
            "generations": ["<think>...", "<think>..."],
            "correctness_math_verify": [True, False],
        },
        ("What is 2+3?", "5", r"It is $\boxed{5}$."),
    ),
    "problems with answers": (
        {"ID": "2024-I-1", "Problem": "What is 200+4?", "Solution": "Add.", "Answer": 204},
        ("What is 200+4?", "204", "Add."),
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_published_shapes_are_found_by_their_first_rows(tmp_path: Path, shape: str) -> None:
    row, expected = SHAPES[shape]
    (problem,), report = load(write(tmp_path / "a.jsonl", [row]))
    assert report.columns.shape == shape
    assert (problem.prompt, problem.gold, problem.solution) == expected
    place(tmp_path, {"a.parquet": parquet([row])})
    assert load(tmp_path / "a.parquet")[0] == [problem]


def test_countdown_rows_are_checked_by_their_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"target": 98, "nums": [44, 19, 35]}])
    (problem,), report = load(path)
    assert report.columns.shape == "Countdown"
    assert "44, 19, 35" in problem.prompt
    assert verify(problem, "<answer>44+19+35</answer>") is Verdict.CORRECT
    assert verify(problem, "<answer>98</answer>") is Verdict.WRONG


def test_columns_override_and_may_lead_into_objects(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [VERL])
    told = ("prompt", "extra_info.answer", "column")
    assert load(path, told=told, checked_by="judge")[0][0].gold == "2+3 is 5"


def test_a_wrong_column_has_the_nearest_and_those_there_are(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [VERL])
    match = (
        r"a.jsonl: no column 'reward_model.ground_trut'; did you mean 'reward_model.ground_truth'"
    )
    with pytest.raises(SourceError, match=match):
        load(path, told=("prompt", "reward_model.ground_trut", "column"))
    path = write(tmp_path / "b.jsonl", ROWS)
    with pytest.raises(SourceError, match=r"no column 'problem'; It has question, answer"):
        load(path, told=("problem", "answer", "column"))


def test_an_unknown_shape_says_how_to_tell_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "a", "label": 3}])
    match = r"no known shape of problems \(its columns: text, label\); say which .*columns: {prompt"
    with pytest.raises(SourceError, match=match):
        load(path)


def test_no_column_of_conversations_alone_is_taken_for_problems() -> None:
    assert detect([{"messages": [{"role": "user", "content": "a"}]}]) is None
    assert detect([{"prompt": "a", "completion": "b"}]) is None


USER = {"role": "user", "content": "Hi"}
NO_TEXT = ("", "the prompt has a turn that is no text")
PROMPTS: list[tuple[Any, tuple[str, str]]] = [
    ("Hi ", ("Hi ", "")),
    ([USER], ("Hi", "")),
    ([{"from": "human", "value": "Hi"}], ("Hi", "")),
    ([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], ("Hi", "")),
    ([USER, {"role": "assistant", "content": "Ho"}], ("", "the prompt has an assistant's turn")),
    ([{"role": "user", "content": None}], ("", "the prompt has a turn that is no text")),
    (
        [{"role": "user", "content": [{"type": "image"}]}],
        ("", "the prompt has a turn that is no text"),
    ),
    ([{"role": "tool", "content": "x"}], ("", "the prompt has an unknown role")),
    ([{"role": "user", "content": " "}], ("", "the prompt is empty")),
    (["Hi"], ("", "the prompt is a list")),
    ({"text": "Hi"}, ("", "the prompt is an object")),
    (b"Hi", ("", "the prompt is bytes")),
    (True, ("", "the prompt is true or false")),
]


@pytest.mark.parametrize(("value", "expected"), PROMPTS)
def test_a_prompt_has_one_reading_or_a_reason(value: Any, expected: tuple[str, str]) -> None:
    assert prompt_text(value) == expected


ANSWERS: list[tuple[Any, tuple[str, str]]] = [
    ("7", ("7", "")),
    (["7"], ("7", "")),
    ('["7"]', ("7", "")),
    ("[7]", ("[7]", "")),
    (10**25 + 1, ("10000000000000000000000001", "")),
    (0.5, ("0.5", "")),
    (Decimal("1E+3"), ("1000", "")),
    (None, ("", "the answer is null")),
    ([None], ("", "the answer is null")),
    ([], ("", "the answer is an empty list")),
    (["7", "8"], ("", "the answer is a list")),
    ([["7"]], ("", "the answer is a list")),
    ({"value": "7", "unit": "m"}, ("", "the answer is an object")),
    (b"7", ("", "the answer is bytes")),
    (float("nan"), ("", "the answer is NaN or infinite")),
    (True, ("", "the answer is true or false")),
    (10**5000, ("", "the answer is an integer of thousands of digits")),
]


@pytest.mark.parametrize(("value", "expected"), ANSWERS, ids=range(len(ANSWERS)))
def test_an_answer_has_one_reading_or_a_reason(value: Any, expected: tuple[str, str]) -> None:
    assert answer_text(value) == expected


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
def test_every_gsm8k_gold_verifies_against_itself_and_its_solution() -> None:
    for name, count in (("train", 7473), ("test", 1319)):
        problems, report = load(SHARED / "gsm8k" / f"{name}.jsonl", max_bad_frac=0.0)
        assert report.num_unchecked == len(report.unusable) == 0
        assert len(problems) == count
        for problem in problems:
            assert verify(problem, rf"\boxed{{{problem.gold}}}") is Verdict.CORRECT
            whole = f"<think>{problem.solution}</think>\n{problem.solution}\n#### {problem.gold}"
            assert verify(problem, whole) is Verdict.CORRECT
