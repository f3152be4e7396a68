"""Rows of the usual shapes and what they are read as, for the tests that import such rows."""

from __future__ import annotations

import math
from typing import Any

from r1pipe.records import Message, messages_to_json

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
    "in capitals": ({"Question": "2+3?", "Answer": "5"}, "prompt-completion", PLAIN),
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
    "columns of turns": (
        {"conversations": {"from": ["human", "gpt"], "value": ["2+3?", "5"]}},
        "conversations",
        PLAIN,
    ),
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
    "distilabel": (
        {"instruction": "2+3?", "chosen_response": "5", "rejected_response": "6"},
        PLAIN,
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

LABELS: dict[str, tuple[dict[str, Any], float]] = {
    "kto": ({"prompt": "2+3?", "completion": "5", "label": True}, 1.0),
    "kto messages": ({"prompt": [ASK], "completion": [SAY], "label": False}, 0.0),
    "llama-factory": ({"conversations": [Q, A], "kto_tag": True}, 1.0),
    "own": ({"prompt": "2+3?", "completion": "5", "is_safe": True, "problem_id": "p"}, 1.0),
}

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
    "uneven columns": (
        {"messages": {"role": ["user"], "content": ["a", "b"]}},
        "messages is a mapping, not a list of messages",
    ),
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
