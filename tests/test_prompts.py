"""Prompts as token ids: templates, tags, beginnings and ends of sequence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import corpus_rows, model, save_policy, tokenizer
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from r1pipe import chat
from r1pipe.models.policy import end_ids, load_model, load_tokenizer
from r1pipe.models.prompts import encode_completion, encode_prompt
from r1pipe.models.tokenizer import CONTROL, TAGS

BOS = "<s>"


@pytest.fixture(scope="module")
def with_bos() -> Any:
    """Return a tokenizer that adds a BOS by itself and whose chat template holds one too."""
    plain = tokenizer()
    backend = type(plain.backend_tokenizer).from_str(plain.backend_tokenizer.to_str())
    backend.add_special_tokens([BOS])
    bos = backend.token_to_id(BOS)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, bos)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=chat.END,
        pad_token=chat.PAD,
        chat_template="{{ bos_token }}" + chat.CHAT_TEMPLATE,
    )


@pytest.mark.parametrize("fmt", ["r1-zero", "chat"])
def test_a_prompt_has_one_bos_where_template_and_tokenizer_both_add_it(
    with_bos: Any, fmt: Any
) -> None:
    ids = encode_prompt(with_bos, "2+3", fmt)
    assert ids.count(with_bos.bos_token_id) == 1
    assert ids[0] == with_bos.bos_token_id


def test_a_completion_has_no_bos_and_one_end(with_bos: Any) -> None:
    ids = encode_completion(with_bos, "<think>a</think> 5")
    assert with_bos.bos_token_id not in ids
    assert ids.count(with_bos.eos_token_id) == 1
    assert ids[-1] == with_bos.eos_token_id


def test_the_passage_of_r1_zero_is_one_token_that_decodes_to_the_papers_words() -> None:
    ids = encode_prompt(tokenizer(), "2+3", "r1-zero")
    assert tokenizer().decode(ids[:1]) == chat.R1_ZERO_PASSAGE
    assert tokenizer().decode(ids) == f"{chat.R1_ZERO_PASSAGE} User: 2+3. Assistant:"
    assert chat.R1_ZERO_PASSAGE == (
        "A conversation between User and Assistant. The user asks a question, and the Assistant"
        " solves it. The assistant first thinks about the reasoning process in the mind and then"
        " provides the user with the answer. The reasoning process and answer are enclosed within"
        " <think> </think> and <answer> </answer> tags, respectively, i.e., <think> reasoning"
        " process here </think> <answer> answer here </answer>."
    )


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_is_one_token_and_survives_decoding(tag: str) -> None:
    tok = tokenizer()
    assert len(tok(tag)["input_ids"]) == 1
    for text in (f"{tag}a", f"a{tag}", f"1 {tag} 2"):
        ids = tok(text)["input_ids"]
        assert tok.decode(ids) == text
        assert tok.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("fmt", ["r1-zero", "chat"])
def test_every_row_of_a_corpus_survives_encoding(fmt: Any) -> None:
    tok = tokenizer()
    for row in corpus_rows(40, fmt, seed=8):
        ids = encode_completion(tok, row["completion"])
        assert tok.decode(ids[:-1]) == row["completion"]
        prompt = tok.decode(encode_prompt(tok, row["prompt"], fmt))
        assert prompt == chat.render_prompt(row["prompt"], fmt)


def test_the_chat_template_keeps_the_thought_of_assistant_messages() -> None:
    said = chat.render_completion("1+1=2", "2", "chat", "It is 2")
    messages = [
        {"role": "user", "content": "1+1"},
        {"role": "assistant", "content": said},
        {"role": "user", "content": "2+2"},
    ]
    text = tokenizer().apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == f"<|user|>1+1<|assistant|>{said}<|end|><|user|>2+2<|assistant|>"
    assert "<think>\n1+1=2\n</think>" in text


@pytest.mark.parametrize("fmt", ["r1-zero", "chat"])
def test_the_prompt_leaves_it_to_the_completion_to_open_the_thought(fmt: Any) -> None:
    text = tokenizer().decode(encode_prompt(tokenizer(), "2+3", fmt))
    assert not text.endswith((chat.THINK_OPEN, f"{chat.THINK_OPEN}\n"))


def test_a_chat_row_trains_on_what_the_template_says() -> None:
    tok = tokenizer()
    said = chat.render_completion("1+1=2", "2", "chat")
    messages = [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": said}]
    whole = tok.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert [*encode_prompt(tok, "1+1", "chat"), *encode_completion(tok, said)] == list(whole)


def test_the_end_of_the_template_is_that_of_tokenizer_and_model(
    tmp_path: Path,
) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    folder = save_policy(tmp_path / "model")
    tok: Any = load_tokenizer(folder)
    policy = load_model(folder)
    text = tok.apply_chat_template(messages, tokenize=False)
    assert text.endswith(tok.eos_token)
    assert end_ids(policy, tok) == [tok.eos_token_id]
    assert policy.config.eos_token_id == tok.eos_token_id
    assert tok.pad_token_id != tok.eos_token_id


def test_every_end_of_the_generation_config_counts_as_an_end() -> None:
    policy = model()
    policy.generation_config.eos_token_id = [40, tokenizer().eos_token_id, 41]
    assert end_ids(policy, tokenizer()) == sorted([tokenizer().eos_token_id, 40, 41])


def test_controls_are_single_tokens_that_text_of_a_user_cannot_split() -> None:
    assert [len(tokenizer()(control)["input_ids"]) for control in CONTROL] == [1] * len(CONTROL)
