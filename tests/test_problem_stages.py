"""The stages that read data sets of problems: what they note, and when they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from data_forms import lines
from tiny import FakeContext, stage

from r1pipe.errors import SourceError, StageError
from r1pipe.records import Problem, Row
from r1pipe.rows import read_problems, write_problems
from r1pipe.stage import Inputs, StageModel

GOOD: list[Row] = [{"question": f"What is {i}+1?", "answer": str(i + 1)} for i in range(60)]


def params(**values: Any) -> StageModel:
    made: StageModel = stage("problems").params(**({"seed": 1, "num_problems": 100} | values))
    return made


def run(
    tmp_path: Path, rows: list[Row], held_out: Path | None = None, **values: Any
) -> FakeContext:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines(rows))
    kind, context = stage("problems"), FakeContext(tmp_path / "work")
    inputs: dict[str, Any] = {"source": path} | ({"held_out": held_out} if held_out else {})
    kind.run(context, params(**values), kind.run_model(), Inputs(inputs))
    return context


def test_one_null_answer_is_noted_with_its_place(tmp_path: Path) -> None:
    rows = [*GOOD[:-1], {"question": "null", "answer": None}]
    context = run(tmp_path, rows)
    assert len(read_problems(context.output("problems"))) == 59
    notes = json.loads(json.dumps(context.notes))
    assert notes["unusable_golds"] == {
        "the answer is null": {"count": 1, "first": ["rows.jsonl:60"]}
    }
    assert (notes["num_read"], notes["num_problems"]) == (60, 59)
    assert notes["shape"].startswith("problems with answers: prompt in 'question'")


def test_columns_may_be_left_out_told_or_told_in_part(tmp_path: Path) -> None:
    def ids(name: str, **values: Any) -> list[str]:
        return [
            p.id for p in read_problems(run(tmp_path / name, GOOD, **values).output("problems"))
        ]

    for name in "abc":
        (tmp_path / name).mkdir()
    told = {"prompt": "question", "answer": "answer", "gold": "column"}
    assert ids("a") == ids("b", columns=told)
    (tmp_path / "rest").mkdir()
    partly = run(tmp_path / "rest", GOOD, columns={"language": "zh", "task": "sums"})
    assert {(p.language, p.task) for p in read_problems(partly.output("problems"))} == {
        ("zh", "sums")
    }


@pytest.mark.parametrize("told", [{"prompt": "q"}, {"gold": "hash"}, {"solution": "s"}])
def test_half_of_the_columns_is_refused(told: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="prompt, answer and gold"):
        params(columns=told)


def test_problems_that_are_all_held_out_are_an_error(tmp_path: Path) -> None:
    words = "one two three four five six seven eight nine ten eleven"
    write_problems(tmp_path / "held", [Problem("a", "math", words, "1")])
    with pytest.raises(
        StageError, match="every problem shares 10 words in a row with one of 'held"
    ):
        run(tmp_path, [{"question": words, "answer": "1"}], held_out=tmp_path / "held")


def test_a_corpus_of_problems_without_solutions_is_an_error(tmp_path: Path) -> None:
    write_problems(tmp_path / "p", [Problem("a", "math", "What is 1+1?", "2")])
    kind = stage("corpus")
    values = kind.params(seed=1, num_rows=5, format="chat")
    with pytest.raises(StageError, match="none of its problems has a worked solution"):
        kind.run(
            FakeContext(tmp_path / "w"),
            values,
            kind.run_model(),
            Inputs({"problems": tmp_path / "p"}),
        )


def look(tmp_path: Path, rows: list[Row], **values: Any) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines(rows))
    kind = stage("problems")
    assert kind.look is not None
    return str(kind.look(params(**values), Inputs({"source": path}))["source"])


def test_a_look_names_files_shape_unused_columns_and_bad_rows(tmp_path: Path) -> None:
    rows = [row | {"id": 1} for row in [*GOOD[:3], {"question": "", "answer": "1"}]]
    assert look(tmp_path, rows) == (
        "rows.jsonl (JSON lines): problems with answers: prompt in 'question', the gold answer in"
        " 'answer'; not used: id; of the first 4 rows 3 are usable: 1 x the prompt is empty (first"
        " at rows.jsonl:4)"
    )


def test_a_look_reads_the_first_rows_only(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines(GOOD) + b"broken")
    kind = stage("problems")
    assert kind.look is not None
    found = kind.look(params(), Inputs({"source": path}))["source"]
    assert found.endswith("the first 50 rows are usable")


def test_a_look_refuses_what_would_fail_later(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no known shape of problems"):
        look(tmp_path, [{"text": "a"}])
    with pytest.raises(StageError, match="none of the first 2 rows is usable: 2 x the answer is a"):
        look(tmp_path, [{"question": "a", "answer": ["1", "2"]}] * 2)
