"""Formats: names and own ones, in manifests, prompts, rewards, extraction and training rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import ScriptedGenerator, grpo_params, problems, stage, tokenizer

from r1pipe.chat import CHAT, CHAT_TEMPLATE, R1_ZERO, Format, as_format, render_completion
from r1pipe.data.training_sequences import training_sequences
from r1pipe.errors import StageError
from r1pipe.generate.protocol import SamplingParams
from r1pipe.manifest.nodes import params_without_defaults
from r1pipe.models.policy import load_tokenizer
from r1pipe.models.prompts import after_opened, encode_completion, encode_prompt, opened_thought
from r1pipe.records import Problem
from r1pipe.rewards.table import rewards_of
from r1pipe.rl.rollouts import sample_groups, score_groups
from r1pipe.rows import write_rows
from r1pipe.settings import OwnFormat, Prompt, format_of
from r1pipe.train.conversations import TurnEncoder
from r1pipe.verify import verify
from r1pipe.verify.reading.extract import extract_answer
from r1pipe.verify.reading.recast import recast

OWN = Format(system="Be brief.", suffix="Box it.", think=("[T]", "[/T]"), answer="last-line")
TAGGED = Format(think=None, answer="tag")
SIX = Problem("p", "arithmetic", "2*3", "6", checker="number")
OPENING = CHAT_TEMPLATE.replace("'<|assistant|>'", "'<|assistant|><think>\\n'")


def opening() -> Any:
    """Return a tokenizer whose chat template opens the thought, as R1-distill's does."""
    made: Any = tokenizer().__class__.from_pretrained(_saved())
    made.chat_template = OPENING
    return made


def _saved() -> Path:
    import tempfile

    folder = Path(tempfile.mkdtemp())
    tokenizer().save_pretrained(folder)
    return folder


# ---- names and texts -----------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", [CHAT, R1_ZERO, OWN, TAGGED, replace(R1_ZERO, suffix="Now.")])
def test_a_format_survives_as_a_text_of_a_row(fmt: Format) -> None:
    assert as_format(fmt.text) == fmt


def test_the_recipes_own_formats_are_names_in_rows() -> None:
    assert (CHAT.text, R1_ZERO.text) == ("chat", "r1-zero")
    assert json.loads(TAGGED.text) == {"answer": "tag", "think": None}


@pytest.mark.parametrize(
    "text", ["Chat", "alpaca", '{"think":["a"]}', '{"answer":"box"}', '{"thinks":null}', "[1]"]
)
def test_a_text_that_is_no_format_is_refused(text: str) -> None:
    with pytest.raises(StageError, match="none that r1pipe wrote; use chat, r1-zero"):
        encode_prompt(tokenizer(), "2+3", text)


def test_names_are_in_the_key_as_before_and_own_formats_as_what_they_change() -> None:
    params = stage("evaluate").params
    base = {"seed": 1, "num_samples": 1, "max_tokens": 8}
    plain = params.model_validate_json(json.dumps({**base, "format": "chat"}))
    assert params_without_defaults(plain) == {**base, "format": "chat"}
    own = {"think": ["[T]", "[/T]"], "answer": "tag"}
    chosen = params.model_validate_json(
        json.dumps({**base, "format": own, "prompt": {"suffix": "x"}})
    )
    assert params_without_defaults(chosen) == {**base, "format": own, "prompt": {"suffix": "x"}}
    assert format_of(chosen.format, chosen.prompt) == Format(
        suffix="x", think=("[T]", "[/T]"), answer="tag"
    )


def test_the_prompts_own_words_lie_over_those_of_the_format() -> None:
    own = OwnFormat(system="a", suffix="b", think="none")
    assert format_of(own, Prompt(suffix="c")) == Format(system="a", suffix="c", think=None)
    assert format_of("r1-zero", Prompt(system="Think hard.")) == replace(
        R1_ZERO, system="Think hard."
    )


# ---- prompts -------------------------------------------------------------------------------------


def test_system_message_and_suffix_stand_in_the_prompt() -> None:
    tok = tokenizer()
    assert tok.decode(encode_prompt(tok, "2*3", OWN)) == (
        "<|system|>Be brief.<|user|>2*3\nBox it.<|assistant|>"
    )
    zero = Format("r1-zero", system="Think.", suffix="Now", answer="tag")
    assert tok.decode(encode_prompt(tok, "2*3", zero)) == "Think. User: 2*3\nNow. Assistant:"


def test_options_reach_the_chat_template() -> None:
    tok = opening()
    tok.chat_template = "{{ messages[0].content }}{% if not enable_thinking %}[off]{% endif %}"
    asked = [Format(options=(("enable_thinking", value),)) for value in (True, False)]
    texts = [tok.decode(encode_prompt(tok, "2*3", fmt)) for fmt in asked]
    assert texts == ["2*3", "2*3[off]"]


def test_a_model_without_a_chat_template_is_told_in_one_line() -> None:
    tok = opening()
    tok.chat_template = None
    with pytest.raises(StageError, match=r"has no chat template; set params\.format: r1-zero"):
        encode_prompt(tok, "2*3", "chat")
    assert tok.decode(encode_prompt(tok, "2*3", "r1-zero")).endswith("User: 2*3. Assistant:")


def test_a_template_that_takes_no_system_message_is_told_in_one_line() -> None:
    tok = opening()
    tok.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(StageError, match="System role not supported; if it takes no system"):
        encode_prompt(tok, "2*3", OWN)


# ---- thoughts that the prompt opens --------------------------------------------------------------


def test_what_a_template_opens_is_found() -> None:
    assert opened_thought(opening(), "chat") == "<think>\n"
    assert opened_thought(opening(), "r1-zero") == ""
    assert opened_thought(tokenizer(), "chat") == ""
    tok = opening()
    tok.chat_template = OPENING.replace("<think>", "[T]")
    assert (opened_thought(tok, "chat"), opened_thought(tok, OWN)) == ("", "[T]\n")
    tok.chat_template = OPENING.replace("<think>\\n", "<think>\\n\\n</think>\\n\\n")
    assert opened_thought(tok, "chat") == "", "an empty thought is closed already"


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("<think>\na\n</think>\n\nb", "a\n</think>\n\nb"),
        ("<think>a</think>b", "a</think>b"),
        ("a</think>b", "a</think>b"),
        ("just b", "\n</think>\n\njust b"),
    ],
)
def test_training_repeats_nothing_that_the_prompt_holds(text: str, rest: str) -> None:
    assert after_opened(text, "<think>\n", "chat") == rest
    assert after_opened(text, "", "chat") == text


def test_rows_are_trained_token_by_token_as_they_were_sampled(tmp_path: Path) -> None:
    tok = opening()
    said = "<think>\n2*3=6\n</think>\n\n\\boxed{6}"
    row = {"prompt": "2*3", "format": "chat", "completion": said}
    write_rows(tmp_path / "rows", [row])
    ((sequence,), _) = training_sequences(tmp_path / "rows", TurnEncoder(tok), 400)
    whole = [*sequence.prompt_ids, *sequence.completion_ids]
    assert tok.decode(whole) == f"<|user|>2*3<|assistant|>{said}<|end|>"
    assert list(sequence.completion_ids) == encode_completion(tok, said[len("<think>\n") :])


class Answering(ScriptedGenerator):
    """Gives texts to prompts of a tokenizer whose template opens the thought."""

    def __init__(self, tok: Any, answers: dict[str, list[str]]) -> None:
        super().__init__({}, "chat")
        self.answers = {tuple(encode_prompt(tok, p, "chat")): a for p, a in answers.items()}


def test_rollouts_have_the_whole_thought_and_a_cut_one_no_answer() -> None:
    tok, (problem,) = opening(), problems(1)
    texts = [f"so\n</think>\n\n\\boxed{{{problem.gold}}}", f"maybe \\boxed{{{problem.gold}}}"]
    sampler = Answering(tok, {problem.prompt: texts})
    sampling = SamplingParams(max_tokens=400)
    groups = sample_groups(sampler, tok, [problem], 2, sampling, "chat", [1])
    assert [r.text for r in groups[0].rollouts] == [f"<think>\n{text}" for text in texts]
    score_groups(groups, {"accuracy": 1.0, "format": 1.0}, "chat")
    found = [(r.verdict, r.rewards) for r in groups[0].rollouts]
    assert found == [
        ("correct", {"accuracy": 1.0, "format": 1.0}),
        ("no_answer", {"accuracy": 0.0, "format": 0.0}),
    ]


def test_an_end_that_stands_in_the_text_is_not_doubled() -> None:
    tok = tokenizer()
    assert encode_completion(tok, "6<|end|>") == encode_completion(tok, "6")


# ---- completions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("[T]2*3=5[/T]It is\n6", "6"),
        ("[T]2*3=5[/T]It is \\boxed{5}\nThe answer is 6.", "6"),
        ("[T]a[/T]\n**6**\n", "6"),
        ("[T]a[/T]\\boxed{5}\n\\boxed{6}", "6"),
        ("6", "6"),
        ("[T]is it 6", None),
        ("[T]a </think> 6", None),
        ("[T]a[/T]", None),
    ],
)
def test_the_last_line_after_ones_own_thought_is_the_answer(text: str, answer: str | None) -> None:
    assert extract_answer(recast(text, OWN)) == answer


def test_a_tag_comes_before_a_box_where_the_format_says_so() -> None:
    text = "not \\boxed{5} but <answer>6</answer>, or \\boxed{7}"
    assert extract_answer(recast(text, TAGGED)) == "6"
    assert extract_answer(recast(text, "chat")) == "7"
    assert verify(SIX, recast(text, TAGGED)) == "correct"


def test_texts_of_the_recipes_formats_are_read_as_they_are() -> None:
    text = "<think>a</think> <answer>6</answer>\nlast"
    assert (recast(text, "chat"), recast(text, "r1-zero")) == (text, text)
    assert recast(text, OWN) == "a <answer>6</answer>\nAnswer: \\boxed{last}", "tags mean nothing"


@pytest.mark.parametrize(
    ("fmt", "text", "value"),
    [
        (OWN, "[T]a[/T]6", 1.0),
        (OWN, "<think>a</think>6", 0.0),
        (OWN, "[T][/T]6", 0.0),
        (OWN, "[T]a[/T] ", 0.0),
        (OWN, "[T]a[T]b[/T]6", 0.0),
        (TAGGED, "It is <answer>6</answer>", 1.0),
        (TAGGED, "It is 6", 0.0),
        (TAGGED, "<think>a</think><answer>6</answer>", 0.0),
        (TAGGED, "<answer>6</answer> or so", 0.0),
        (TAGGED, "<answer> </answer>", 0.0),
        (Format(think=None), "It is \\boxed{6}", 1.0),
        (Format(think=None), "It is 6", 0.0),
    ],
)
def test_the_format_reward_goes_by_the_format(fmt: Format, text: str, value: float) -> None:
    assert rewards_of(fmt)["format"](SIX, text) == value
    assert rewards_of(fmt.text)["format"](SIX, text) == value


@pytest.mark.parametrize("fmt", [OWN, TAGGED, Format(think=("[T]", "[/T]")), CHAT, R1_ZERO])
def test_what_is_written_in_a_format_is_valid_in_it_and_read_back(fmt: Format) -> None:
    text = render_completion("" if fmt.think is None else "2*3=6", "6", fmt, "So \\boxed{6}")
    assert rewards_of(fmt)["format"](SIX, text) == 1.0
    assert verify(SIX, recast(text, fmt)) == "correct"


def test_rewards_of_thoughts_find_ones_own_tags() -> None:
    reward = rewards_of(OWN)["language"]
    english = Problem("p", "t", "?", "6", language="en")
    assert reward(english, "[T]two and three[/T]6") > reward(english, "[T]二加三得五是不是[/T]6")


def test_grpo_takes_an_own_format() -> None:
    own = {"think": "none", "answer": "last-line"}
    made = stage("grpo").params.model_validate_json(
        json.dumps(json.loads(grpo_params().model_dump_json()) | {"format": own})
    )
    assert format_of(made.format, made.prompt) == Format(think=None, answer="last-line")


# ---- tokens that a tokenizer lacks ---------------------------------------------------------------


def without(folder: Path, *names: str) -> Path:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in config.items() if k not in names}))
    return folder


def test_padding_takes_a_token_that_is_there() -> None:
    tok: Any = load_tokenizer(without(_saved(), "pad_token"))
    assert tok.pad_token == "<|pad|>", "a token that is made for it"
    folder = without(_saved(), "pad_token")
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<|pad|>", "<|filler|>"))
    assert load_tokenizer(folder).pad_token_id == load_tokenizer(folder).eos_token_id


def test_an_end_may_be_named_by_the_model_alone() -> None:
    folder = without(_saved(), "eos_token")
    with pytest.raises(StageError, match="no end-of-sequence token, so nothing would ever end"):
        load_tokenizer(folder)
    end = tokenizer().eos_token_id
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [10**6, end]}))
    assert load_tokenizer(folder).eos_token_id == end
