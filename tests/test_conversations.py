"""Which tokens of a conversation are trained, family by family, worked out by hand."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
from chat_templates import FAMILIES, tokenizer_of

from r1pipe.chat import CHAT, R1_ZERO, Format
from r1pipe.errors import StageError
from r1pipe.records import Message, TokenSequence
from r1pipe.train.conversations import TrainOn, TurnEncoder, Untrainable

SYSTEM = Message("system", "Be brief.")
THOUGHT = "<think>\n1 and 1\n</think>\n\n2"
PLAIN = [Message("user", "1+1?"), Message("assistant", "2")]
LONG = [SYSTEM, *PLAIN, Message("user", "+1?"), Message("assistant", "3")]
THOUGHTFUL = [
    Message("user", "1+1?"),
    Message("assistant", THOUGHT),
    Message("user", "+1?"),
    Message("assistant", "<think>\n2 and 1\n</think>\n\n3"),
]
TEMPLATED = [name for name, family in FAMILIES.items() if family.template]
BOS, ASK, SAY, END = (
    "<\uff5cbegin\u2581of\u2581sentence\uff5c>",
    "<\uff5cUser\uff5c>",
    "<\uff5cAssistant\uff5c>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
)
HEAD = "<|start_header_id|>{}<|end_header_id|>\n\n"
USER, ASSISTANT = HEAD.format("user"), HEAD.format("assistant")


@lru_cache
def tok(family: str) -> Any:
    return tokenizer_of(family)


def shown(family: str, sequences: list[TokenSequence]) -> list[list[tuple[str, bool]]]:
    """Return sequences as runs of text that are trained, or not."""
    shown = []
    for sequence in sequences:
        trained = sequence.trained or [True] * len(sequence.completion_ids)
        flags = [False] * len(sequence.prompt_ids) + list(trained)
        runs: list[tuple[list[int], bool]] = []
        ids = [*sequence.prompt_ids, *sequence.completion_ids]
        for token, flag in zip(ids, flags, strict=True):
            if not runs or runs[-1][1] != flag:
                runs.append(([], flag))
            runs[-1][0].append(token)
        shown.append([(tok(family).decode(run), flag) for run, flag in runs])
    return shown


def encode(family: str, messages: list[Message], train_on: TrainOn = "every-turn") -> Any:
    return shown(family, TurnEncoder(tok(family)).encode(messages, train_on))


IM = "<|im_start|>{}\n{}<|im_end|>\n"
EXPECTED: dict[str, list[list[tuple[str, bool]]]] = {
    # the conversation LONG: system, two turns without thoughts
    "chatml": [
        [
            (
                IM.format("system", "Be brief.")
                + IM.format("user", "1+1?")
                + "<|im_start|>assistant\n",
                False,
            ),
            ("2<|im_end|>", True),
            ("\n" + IM.format("user", "+1?") + "<|im_start|>assistant\n", False),
            ("3<|im_end|>", True),
        ]
    ],
    "llama-3": [
        [
            (
                f"<|begin_of_text|>{HEAD.format('system')}Be brief.<|eot_id|>"
                f"{USER}1+1?<|eot_id|>{ASSISTANT}",
                False,
            ),
            ("2<|eot_id|>", True),
            (f"{USER}+1?<|eot_id|>{ASSISTANT}", False),
            ("3<|eot_id|>", True),
        ]
    ],
    "mistral": [
        [
            ("<s>[INST] Be brief.\n\n1+1? [/INST]", False),
            ("2</s>", True),
            ("[INST] +1? [/INST]", False),
            ("3</s>", True),
        ]
    ],
    # the prompt opens a thought, which the text has not: it is closed, and history has neither
    "deepseek-r1": [
        [
            (f"{BOS}Be brief.{ASK}1+1?{SAY}<think>\n", False),
            (f"\n</think>\n\n2{END}", True),
        ],
        [
            (f"{BOS}Be brief.{ASK}1+1?{SAY}2{END}{ASK}+1?{SAY}<think>\n", False),
            (f"\n</think>\n\n3{END}", True),
        ],
    ],
}
EXPECTED["qwen-3"] = EXPECTED["chatml"]
EXPECTED_THOUGHTS: dict[str, list[list[tuple[str, bool]]]] = {
    # the conversation THOUGHTFUL: two turns with thoughts
    "chatml": [
        [
            (IM.format("user", "1+1?") + "<|im_start|>assistant\n", False),
            (f"{THOUGHT}<|im_end|>", True),
            ("\n" + IM.format("user", "+1?") + "<|im_start|>assistant\n", False),
            ("<think>\n2 and 1\n</think>\n\n3<|im_end|>", True),
        ]
    ],
    # the template takes the first thought out of the history of the second turn
    "qwen-3": [
        [
            (IM.format("user", "1+1?") + "<|im_start|>assistant\n", False),
            (f"{THOUGHT}<|im_end|>", True),
        ],
        [
            (
                IM.format("user", "1+1?")
                + IM.format("assistant", "2")
                + IM.format("user", "+1?")
                + "<|im_start|>assistant\n",
                False,
            ),
            ("<think>\n2 and 1\n</think>\n\n3<|im_end|>", True),
        ],
    ],
    # the same, and the prompt has opened the thought; the template leaves two line breaks
    "deepseek-r1": [
        [
            (f"{BOS}{ASK}1+1?{SAY}<think>\n", False),
            (f"1 and 1\n</think>\n\n2{END}", True),
        ],
        [
            (f"{BOS}{ASK}1+1?{SAY}\n\n2{END}{ASK}+1?{SAY}<think>\n", False),
            (f"2 and 1\n</think>\n\n3{END}", True),
        ],
    ],
    "llama-3": [
        [
            (f"<|begin_of_text|>{USER}1+1?<|eot_id|>{ASSISTANT}", False),
            (f"{THOUGHT}<|eot_id|>", True),
            (f"{USER}+1?<|eot_id|>{ASSISTANT}", False),
            ("<think>\n2 and 1\n</think>\n\n3<|eot_id|>", True),
        ]
    ],
    "mistral": [
        [
            ("<s>[INST] 1+1? [/INST]", False),
            (f"{THOUGHT}</s>", True),
            ("[INST] +1? [/INST]", False),
            ("<think>\n2 and 1\n</think>\n\n3</s>", True),
        ]
    ],
}


@pytest.mark.parametrize("family", TEMPLATED)
def test_every_turn_of_a_conversation_is_trained_after_what_the_model_would_see(
    family: str,
) -> None:
    assert encode(family, LONG) == EXPECTED[family]


@pytest.mark.parametrize("family", TEMPLATED)
def test_thoughts_are_trained_and_history_is_as_the_template_shows_it(family: str) -> None:
    assert encode(family, THOUGHTFUL) == EXPECTED_THOUGHTS[family]


@pytest.mark.parametrize("family", TEMPLATED)
def test_the_last_turn_alone_has_the_same_prompt_and_text(family: str) -> None:
    for messages in (LONG, THOUGHTFUL):
        whole = encode(family, messages)[-1]
        before = "".join(text for text, _ in whole[:-1])
        assert encode(family, messages, "last-turn") == [[(before, False), whole[-1]]]


@pytest.mark.parametrize("family", TEMPLATED)
def test_every_trained_turn_ends_once_and_begins_after_one_bos(family: str) -> None:
    tokenizer = tok(family)
    for messages in (LONG, THOUGHTFUL):
        for sequence in TurnEncoder(tokenizer).encode(messages, "every-turn"):
            trained = sequence.trained or [True] * len(sequence.completion_ids)
            said = [t for t, flag in zip(sequence.completion_ids, trained, strict=True) if flag]
            turns = trained.count(True) and sum(
                flag and not before
                for before, flag in zip([False, *trained[:-1]], trained, strict=True)
            )
            assert said.count(tokenizer.eos_token_id) == turns
            assert said[-1] == tokenizer.eos_token_id
            if tokenizer.bos_token_id is not None:
                ids = [*sequence.prompt_ids, *sequence.completion_ids]
                assert ids.count(tokenizer.bos_token_id) == 1
                assert ids[0] == tokenizer.bos_token_id


@pytest.mark.parametrize("family", TEMPLATED)
def test_turns_that_share_a_sequence_are_those_that_the_template_renders(family: str) -> None:
    tokenizer = tok(family)
    turns = [{"role": m.role, "content": m.content} for m in PLAIN * 2]
    whole = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    for sequence in TurnEncoder(tokenizer).encode(PLAIN * 2, "every-turn"):
        ids = [*sequence.prompt_ids, *sequence.completion_ids]
        if family in ("chatml", "llama-3", "mistral"):
            assert list(whole)[: len(ids)] == ids


@pytest.mark.parametrize("family", TEMPLATED)
def test_a_conversation_of_one_turn_is_the_row_of_a_prompt_and_a_completion(family: str) -> None:
    encoder = TurnEncoder(tok(family))
    for text in ("2", THOUGHT):
        turns = [PLAIN[0], Message("assistant", text)]
        assert encoder.encode(turns, "every-turn") == [encoder.encode_row("1+1?", text, CHAT)]


def test_turns_that_are_not_to_be_trained_are_history() -> None:
    first = Message("assistant", "2", is_trained=False)
    assert encode("chatml", [PLAIN[0], first, *LONG[3:]]) == [
        [
            (
                IM.format("user", "1+1?")
                + IM.format("assistant", "2")
                + IM.format("user", "+1?")
                + "<|im_start|>assistant\n",
                False,
            ),
            ("3<|im_end|>", True),
        ]
    ]
    with pytest.raises(Untrainable, match="no turn of the assistant is to be trained"):
        encode("chatml", [PLAIN[0], first])


def test_a_formats_system_message_and_suffix_are_in_every_prompt() -> None:
    fmt = Format(system="Be kind.", suffix="Box it.")
    (runs,) = shown("chatml", TurnEncoder(tok("chatml")).encode(THOUGHTFUL, "every-turn", fmt))
    assert runs[0][0] == (
        IM.format("system", "Be kind.")
        + IM.format("user", "1+1?\nBox it.")
        + "<|im_start|>assistant\n"
    )
    assert runs[2][0] == "\n" + IM.format("user", "+1?\nBox it.") + "<|im_start|>assistant\n"
    own = TurnEncoder(tok("chatml")).encode(LONG, "every-turn", fmt)
    assert shown("chatml", own)[0][0][0].startswith(IM.format("system", "Be brief."))


def test_results_of_tools_are_history_in_which_qwen_3_keeps_the_thought() -> None:
    turns = [
        PLAIN[0],
        Message("assistant", "<think>\nask\n</think>\n\n<tool_call>\n{}\n</tool_call>"),
        Message("user", "<tool_response>\n2\n</tool_response>"),
        Message("assistant", THOUGHT),
    ]
    (runs,) = encode("qwen-3", turns)
    assert [flag for _, flag in runs] == [False, True, False, True]
    assert runs[1][0] == f"{turns[1].content}<|im_end|>"
    assert runs[3][0] == f"{THOUGHT}<|im_end|>"


def test_blanks_that_a_template_trims_part_the_turns_and_stay_trained() -> None:
    turns = [PLAIN[0], Message("assistant", "2\n"), *LONG[3:]]
    first, second = encode("llama-3", turns)
    assert first[1] == ("2\n<|eot_id|>", True)
    assert second[0][0].endswith(f"{ASSISTANT}2<|eot_id|>{USER}+1?<|eot_id|>{ASSISTANT}")
    assert second[1] == ("3<|eot_id|>", True)


# ---- ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tail", ["{}", "{}\n", "{}{}", "{} {} \n"])
def test_an_end_that_the_completion_has_already_is_trained_once(family: str, tail: str) -> None:
    tokenizer = tok(family)
    encoder = TurnEncoder(tokenizer)
    fmt = R1_ZERO if family == "none" else CHAT
    end = tokenizer.eos_token
    assert encoder.completion("2" + tail.format(end, end), fmt) == encoder.completion("2", fmt)
    assert encoder.completion("2", fmt).count(tokenizer.eos_token_id) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<|im_end|>", "only a token that ends a turn"),
        (" <|im_end|>\n", "only a token that ends a turn"),
        ("2<|im_end|>3", "stands inside the completion"),
    ],
)
def test_what_cannot_be_trained_says_why(text: str, reason: str) -> None:
    with pytest.raises(Untrainable, match=reason):
        TurnEncoder(tok("chatml")).completion(text, CHAT)


def test_the_templates_own_end_is_trained_if_sampling_stops_at_it() -> None:
    tokenizer = tokenizer_of("chatml")
    tokenizer.eos_token = "<|endoftext|>"
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    # a base model: nothing stops at <|im_end|>
    assert TurnEncoder(tokenizer).completion("2", CHAT)[-1] == tokenizer.eos_token_id
    both = TurnEncoder(tokenizer, [end, tokenizer.eos_token_id])
    assert both.completion("2", CHAT)[-1] == end
    assert both.completion("2", R1_ZERO)[-1] == tokenizer.eos_token_id
    with pytest.raises(Untrainable, match="stands inside"):
        both.completion("2<|endoftext|>3", CHAT)


def test_a_tokenizer_without_any_end_is_refused() -> None:
    tokenizer = tokenizer_of("chatml")
    tokenizer.eos_token = None
    with pytest.raises(StageError, match="has no end-of-sequence token"):
        TurnEncoder(tokenizer)


# ---- templates that are not there, or refuse -----------------------------------------------------


def test_a_model_without_a_template_trains_plain_text_and_refuses_chat() -> None:
    encoder = TurnEncoder(tok("none"))
    sequence = encoder.encode_row("1+1?", "2", R1_ZERO)
    assert tok("none").decode(sequence.completion_ids) == "2<|endoftext|>"
    with pytest.raises(StageError, match="has no chat template"):
        encoder.encode_row("1+1?", "2", CHAT)
    with pytest.raises(StageError, match="has no chat template"):
        encoder.encode(LONG, "every-turn")


def test_a_conversation_that_the_template_refuses_is_left_out_with_its_words() -> None:
    turns = [*PLAIN[:1], *PLAIN]
    with pytest.raises(Untrainable, match=r"refuses it \(Conversation roles must alternate"):
        encode("mistral", turns)
    with pytest.raises(Untrainable, match=r"refuses it \(Conversation roles must alternate"):
        encode("mistral", [SYSTEM, *turns])
