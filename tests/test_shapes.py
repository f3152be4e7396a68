"""Shapes of training rows: recognised by their columns, read into conversations."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from shape_cases import ASK, BAD, LABELS, PAIRS, PLAIN, ROWS, SAY, SYSTEM, THOUGHT, A, Q, turns

from r1pipe.data.messages import BadRow
from r1pipe.data.readings import Example, Generations, NoneCorrect
from r1pipe.data.shapes import SHAPES, Meaning, advice, detect
from r1pipe.records import Message, messages_from_json, messages_to_json


@pytest.mark.parametrize("case", ROWS)
def test_a_row_is_recognised_and_read(case: str) -> None:
    row, name, expected = ROWS[case]
    shape = detect(row)
    assert shape is not None
    assert (shape.name, shape.gives) == (name, "rows")
    assert [example.messages for example in shape.examples(row)] == [expected]
    assert "{" not in shape.does


@pytest.mark.parametrize("case", PAIRS)
def test_a_pair_is_recognised_and_read(case: str) -> None:
    row, messages, rejected = PAIRS[case]
    shape = detect(row)
    assert shape is not None
    assert shape.gives == "pairs"
    assert shape.examples(row) == [Example(messages, rejected=rejected)]


@pytest.mark.parametrize("case", LABELS)
def test_a_rating_is_recognised_and_read(case: str) -> None:
    row, label = LABELS[case]
    shape = detect(row)
    assert shape is not None
    assert shape.gives == "labels"
    assert shape.examples(row) == [Example(PLAIN, label=label)]


def test_every_shape_has_a_case() -> None:
    seen = {name for _, name, _ in ROWS.values()} | {"pairs", "labels"}
    assert seen == {shape.name for shape in SHAPES}


# ---- which reading, and none ---------------------------------------------------------------------


def test_columns_say_what_is_meant_and_then_no_others_count() -> None:
    row = {"q": "2+3?", "a": "5", "messages": [ASK], "label": 3, "chosen": "x"}
    shape = detect(row, {"prompt": "q", "completion": "a"})
    assert shape is not None
    assert shape.name == "prompt-completion"
    assert shape.does == "'a', trained as the answer to 'q'"
    assert shape.examples(row)[0].messages == PLAIN


def test_columns_make_ratings_of_scores_and_thoughts_of_any_column() -> None:
    row = {"p": "2+3?", "r": "5", "helpfulness": 3, "why": "2 and 3"}
    rated = detect(row, {"prompt": "p", "completion": "r", "label": "helpfulness"})
    assert rated is not None
    assert rated.examples(row) == [Example(PLAIN, label=3.0)]
    thought = detect(row, {"prompt": "p", "completion": "r", "thought": "why"})
    assert thought is not None
    assert thought.examples(row)[0].messages == turns("2+3?", THOUGHT)


def test_a_shape_can_be_asked_for_by_name() -> None:
    row = ROWS["openr1"][0]
    shape = detect(row, name="messages")
    assert shape is not None
    assert shape.examples(row)[0].messages == PLAIN
    assert detect(row, name="alpaca") is None


def test_two_columns_that_may_be_the_answer_are_no_shape_and_the_advice_says_which() -> None:
    row = {"question": "2+3?", "solution": "2+3=5", "answer": "5"}  # LIMO
    assert detect(row) is None
    assert "which of answer, solution is the completion?" in advice(row)
    assert "params.columns" in advice(row)
    assert detect({"text": "once upon a time"}) is None


def test_every_meaning_that_columns_take_is_one_that_a_shape_reads() -> None:
    used: set[str] = set()
    for name in get_args(Meaning):
        for partner in ("", "prompt", "completion", "messages", "instruction", "chosen"):
            for third in ("", "completion", "prompt", "format", "rejected"):
                names: dict[Any, str] = {n: n for n in (name, partner, third) if n}
                found = detect({}, names)
                used |= set(found.columns.values()) if found else set()
    assert set(get_args(Meaning)) <= used


# ---- generations with flags ----------------------------------------------------------------------


def openr1(which: Generations, **flags: Any) -> list[str]:
    """Return the answers that are taken of three generations."""
    row = {"problem": "2+3?", "generations": ["a", "b", "c"], **flags}
    shape = detect(row)
    assert shape is not None
    return [example.messages[-1].content for example in shape.examples(row, which)]


def test_of_several_generations_the_correct_and_complete_ones_are_taken() -> None:
    by_rule = {"correctness_math_verify": [False, True, True]}
    assert openr1("every-correct", **by_rule) == ["b", "c"]
    assert openr1("first-correct", **by_rule) == ["b"]
    cut = {"is_reasoning_complete": [True, False, True]}
    assert openr1("every-correct", **by_rule, **cut) == ["c"]
    judged = {"correctness_llama": [True, False, None]}
    assert openr1("every-correct", **by_rule, **judged) == ["a", "b", "c"]
    assert openr1("every-correct", correctness_math_verify=None, **judged) == ["a", "c"]


def test_generations_without_any_flag_are_all_taken() -> None:
    assert openr1("every-correct") == ["a", "b", "c"]
    assert openr1("first-correct") == ["a"]


def test_a_problem_without_a_correct_generation_gives_nothing_and_is_not_bad() -> None:
    with pytest.raises(NoneCorrect):
        openr1("every-correct", correctness_math_verify=[False, False, False])


# ---- messages ------------------------------------------------------------------------------------


def read(*messages: object, **columns: object) -> list[Message]:
    """Return what a row of messages holds."""
    row = {"messages": list(messages), **columns}
    shape = detect(row)
    assert shape is not None
    return shape.examples(row)[0].messages


def test_tool_calls_and_results_stay_as_text_in_turns_that_alternate() -> None:
    call = {"function": {"name": "add", "arguments": '{"a": 2}'}}
    found = read(
        ASK,
        {"role": "assistant", "content": None, "tool_calls": [call, call]},
        {"role": "tool", "content": "5"},
        {"role": "tool", "content": "6"},
        SAY,
    )
    text = '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>'
    results = "<tool_response>\n5\n</tool_response>\n<tool_response>\n6\n</tool_response>"
    assert found == turns("2+3?", f"{text}\n{text}", results, "5")


def test_sharegpt_calls_and_observations_are_the_same_text() -> None:
    found = read(
        Q, {"from": "function_call", "value": "{}"}, {"from": "observation", "value": "5"}, A
    )
    assert found == turns(
        "2+3?", "<tool_call>\n{}\n</tool_call>", "<tool_response>\n5\n</tool_response>", "5"
    )


def test_descriptions_of_tools_stand_in_the_system_message() -> None:
    found = read(ASK, SAY, tools=[{"name": "add"}])
    assert found[0] == Message("system", '<tools>\n[{"name": "add"}]\n</tools>')
    found = read(SYSTEM, ASK, SAY, tools='[{"name": "add"}]')
    assert found[0].content == '<tools>\n[{"name": "add"}]\n</tools>\n\nBe brief.'


def test_turns_with_weight_zero_are_kept_and_not_trained() -> None:
    found = read(ASK, SAY | {"weight": 0}, ASK, SAY | {"weight": 1})
    assert [each.is_trained for each in found] == [True, False, True, True]
    assert messages_from_json(messages_to_json(found)) == found


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_says_why(case: str) -> None:
    row, reason = BAD[case]
    shape = detect(row)
    assert shape is not None
    with pytest.raises(BadRow, match=reason):
        shape.examples(row)
