"""Shapes of training rows: recognised by their columns, read into conversations."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest

from r1pipe.data.messages import BadRow
from r1pipe.data.readings import Example, Generations, NoneCorrect
from r1pipe.data.shapes import SHAPES, Meaning, advice, detect
from r1pipe.records import Message, messages_from_json, messages_to_json

ASK, SAY = {"role": "user", "content": "2+3?"}, {"role": "assistant", "content": "5"}
Q, A = {"from": "human", "value": "2+3?"}, {"from": "gpt", "value": "5"}
SYSTEM = {"role": "system", "content": "Be brief."}
THOUGHT = "<think>\n2 and 3\n</think>\n\n5"


def turns(*said: str) -> list[Message]:
    """Return user and assistant by turns."""
    return [Message(("user", "assistant")[i % 2], text) for i, text in enumerate(said)]


PLAIN = turns("2+3?", "5")
BRIEF = [Message("system", "Be brief."), *PLAIN]
LONG = [*PLAIN, *turns("and 4?", "9")]

ROWS: dict[str, tuple[dict[str, Any], str, list[Message]]] = {
    # name of the case: row, shape, conversation
    "own": ({"prompt": "2+3?", "completion": "5", "format": "chat"}, "r1pipe", PLAIN),
    "own conversation": (
        {
            "prompt": "2+3?",
            "completion": "5",
            "format": "chat",
            "messages": messages_to_json(BRIEF),
        },
        "r1pipe",
        BRIEF,
    ),
    "trl": ({"prompt": "2+3?", "completion": "5"}, "prompt-completion", PLAIN),
    "trl with a gold answer": (
        {"prompt": "2+3?", "completion": "5", "answer": "5"},
        "prompt-completion",
        PLAIN,
    ),
    "trl messages": ({"prompt": [SYSTEM, ASK], "completion": [SAY]}, "prompt-completion", BRIEF),
    "gsm8k": ({"question": "2+3?", "answer": "5"}, "prompt-completion", PLAIN),
    "metamath": ({"query": "2+3?", "response": "5", "type": "x"}, "prompt-completion", PLAIN),
    "ms-swift": (
        {"system": "Be brief.", "query": "2+3?", "response": "5"},
        "prompt-completion",
        BRIEF,
    ),
    "openai": ({"messages": [SYSTEM, ASK, SAY]}, "messages", BRIEF),
    "mixture-of-thoughts": (
        {"messages": [ASK, SAY], "num_tokens": 4, "source": "math"},
        "messages",
        PLAIN,
    ),
    "several turns": (
        {"messages": [ASK, SAY, {"role": "user", "content": "and 4?"}, SAY | {"content": "9"}]},
        "messages",
        LONG,
    ),
    "reasoning_content": (
        {"messages": [ASK, SAY | {"reasoning_content": "2 and 3"}]},
        "messages",
        turns("2+3?", THOUGHT),
    ),
    "think inside": (
        {"messages": [ASK, SAY | {"content": THOUGHT, "reasoning_content": "2 and 3"}]},
        "messages",
        turns("2+3?", THOUGHT),
    ),
    "parts": (
        {"messages": [ASK | {"content": [{"type": "text", "text": "2+3?"}]}, SAY]},
        "messages",
        PLAIN,
    ),
    "sharegpt": ({"conversations": [Q, A]}, "conversations", PLAIN),
    "open-thoughts": (
        {
            "system": "Be brief.",
            "conversations": [{"from": "user", "value": "2+3?"}, {"from": "assistant"} | A],
        }
        | {"reasoning": "2 and 3", "deepseek_solution": "5", "problem": "2+3?"},
        "conversations",
        BRIEF,
    ),
    "alpaca": ({"instruction": "2+3?", "input": "", "output": "5"}, "alpaca", PLAIN),
    "alpaca input": (
        {"instruction": "Add.", "input": "2+3", "output": "5", "text": "all"},
        "alpaca",
        turns("Add.\n\n2+3", "5"),
    ),
    "llama-factory": (
        {"instruction": "and 4?", "output": "9", "system": "Be brief.", "history": [["2+3?", "5"]]},
        "alpaca",
        [BRIEF[0], *LONG],
    ),
    "dolly": (
        {"instruction": "Add.", "context": "2+3", "response": "5", "category": "qa"},
        "alpaca",
        turns("Add.\n\n2+3", "5"),
    ),
    "r1-distill": (
        {"input": "2+3?", "reasoning_content": "2 and 3", "content": "5", "score": 10},
        "thought",
        turns("2+3?", THOUGHT),
    ),
    "open-thoughts metadata": (
        {"problem": "2+3?", "deepseek_reasoning": "2 and 3", "deepseek_solution": "5"},
        "thought",
        turns("2+3?", THOUGHT),
    ),
    "s1K": (
        {
            "question": "2+3?",
            "solution": "x",
            "deepseek_thinking_trajectory": "2 and 3",
            "deepseek_attempt": "5",
        },
        "thought",
        turns("2+3?", THOUGHT),
    ),
    "openr1": (
        {
            "problem": "2+3?",
            "solution": "s",
            "answer": "5",
            "generations": ["6", THOUGHT],
            "is_reasoning_complete": [True, True],
            "correctness_math_verify": [False, True],
            "correctness_llama": None,
            "messages": [ASK, SAY],
        },
        "openr1",
        turns("2+3?", THOUGHT),
    ),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_row_is_recognised_and_read(case: str) -> None:
    row, name, expected = ROWS[case]
    shape = detect(row)
    assert shape is not None
    assert (shape.name, shape.gives) == (name, "rows")
    assert [example.messages for example in shape.examples(row)] == [expected]
    assert "{" not in shape.does


PAIRS: dict[str, tuple[dict[str, Any], list[Message], str]] = {
    "trl": ({"prompt": "2+3?", "chosen": "5", "rejected": "6"}, PLAIN, "6"),
    "trl messages": (
        {"prompt": [SYSTEM, ASK], "chosen": [SAY], "rejected": [SAY | {"content": "6"}]},
        BRIEF,
        "6",
    ),
    "implicit prompt": (
        {"chosen": [ASK, SAY], "rejected": [ASK, SAY | {"content": "6"}]},
        PLAIN,
        "6",
    ),
    "ultrafeedback": (
        {
            "prompt": "2+3?",
            "chosen": [ASK, SAY],
            "rejected": [ASK, SAY | {"content": "6"}],
            "messages": [ASK, SAY],
            "score_chosen": 9.0,
        },
        PLAIN,
        "6",
    ),
    "orca": (
        {"system": "Be brief.", "question": "2+3?", "chosen": "5", "rejected": "6"},
        BRIEF,
        "6",
    ),
    "llama-factory": (
        {"conversations": [Q], "chosen": A, "rejected": A | {"value": "6"}},
        PLAIN,
        "6",
    ),
    "llama-factory alpaca": (
        {"instruction": "Add.", "input": "2+3", "chosen": "5", "rejected": "6"},
        turns("Add.\n\n2+3", "5"),
        "6",
    ),
    "hh-rlhf": (
        {
            "chosen": "\n\nHuman: 2+3?\n\nAssistant: 5\n\nHuman: and 4?\n\nAssistant: 9",
            "rejected": "\n\nHuman: 2+3?\n\nAssistant: 5\n\nHuman: and 4?\n\nAssistant: 8",
        },
        LONG,
        "8",
    ),
}


@pytest.mark.parametrize("case", PAIRS)
def test_a_pair_is_recognised_and_read(case: str) -> None:
    row, messages, rejected = PAIRS[case]
    shape = detect(row)
    assert shape is not None
    assert shape.gives == "pairs"
    assert shape.examples(row) == [Example(messages, rejected=rejected)]


LABELS: dict[str, tuple[dict[str, Any], float]] = {
    "kto": ({"prompt": "2+3?", "completion": "5", "label": True}, 1.0),
    "kto messages": ({"prompt": [ASK], "completion": [SAY], "label": False}, 0.0),
    "llama-factory": ({"conversations": [Q, A], "kto_tag": True}, 1.0),
    "own": ({"prompt": "2+3?", "completion": "5", "is_safe": True, "problem_id": "p"}, 1.0),
}


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


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "null completion": ({"prompt": "a", "completion": None}, "completion is null, not text"),
    "empty completion": ({"prompt": "a", "completion": " \n"}, "completion is empty"),
    "empty prompt": ({"prompt": "", "completion": "a"}, "prompt is empty"),
    "number": ({"prompt": "a", "completion": 5}, "completion is a number"),
    "nan": ({"prompt": "a", "completion": math.nan}, "completion is NaN"),
    "bytes": ({"prompt": "a", "completion": b"5"}, "completion is bytes"),
    "bytes as messages": ({"messages": b"5"}, "messages is bytes, not a list of messages"),
    "list of answers": ({"prompt": "a", "completion": ["5"]}, "completion holds text, not a mess"),
    "half a pair": ({"prompt": "a\ud800", "completion": "b"}, "prompt has half of a surrogate"),
    "prompt ends": (
        {"prompt": [ASK, SAY], "completion": "a"},
        "prompt does not end with what the user says",
    ),
    "no messages": ({"messages": []}, "messages is empty"),
    "null messages": ({"messages": None}, "messages is null, not a list of messages"),
    "text as messages": ({"messages": "hello"}, "messages is text, not a list of messages"),
    "number as message": ({"messages": [3]}, "messages holds a number, not a message"),
    "no role": ({"messages": [{"content": "a"}]}, "unknown role null"),
    "odd role": ({"messages": [{"role": "judge", "content": "a"}]}, "unknown role 'judge'"),
    "null content": ({"messages": [ASK, SAY | {"content": None}]}, "message of messages is null"),
    "empty content": ({"messages": [ASK, SAY | {"content": ""}]}, "message of messages is empty"),
    "image": (
        {"messages": [ASK | {"content": [{"type": "image_url"}]}, SAY]},
        "has a part that is not text",
    ),
    "no answer": ({"messages": [SYSTEM, ASK]}, "messages has no turn of the assistant"),
    "ends with a question": ({"messages": [ASK, SAY, ASK]}, "does not end with the assistant"),
    "begins with an answer": ({"messages": [SAY, ASK, SAY]}, "begins with the assistant"),
    "null thought": (
        {"input": "a", "reasoning_content": None, "content": "b"},
        "thought is null, not text",
    ),
    "no generations": ({"problem": "a", "generations": []}, "generations is empty"),
    "generations text": ({"problem": "a", "generations": "b"}, "generations is text, not a list"),
    "null generation": ({"problem": "a", "generations": [None]}, "a generation is null, not text"),
    "history": ({"instruction": "a", "output": "b", "history": ["c"]}, "that is not a pair"),
    "same": ({"prompt": "a", "chosen": "b", "rejected": "b"}, "are the same"),
    "null chosen": ({"prompt": "a", "chosen": None, "rejected": "b"}, "chosen is null"),
    "no prompt": ({"chosen": "a", "rejected": "b"}, "there is no prompt"),
    "different prompts": (
        {"chosen": [ASK, SAY], "rejected": [SYSTEM, ASK, SAY]},
        "differ before their last turn",
    ),
    "null label": ({"prompt": "a", "completion": "b", "label": None}, "label is null"),
    "nan label": ({"prompt": "a", "completion": "b", "label": math.nan}, "label is NaN"),
    "text label": ({"prompt": "a", "completion": "b", "label": "good"}, "label is text"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_says_why(case: str) -> None:
    row, reason = BAD[case]
    shape = detect(row)
    assert shape is not None
    with pytest.raises(BadRow, match=reason):
        shape.examples(row)
