"""Pieces of texts as tokens: the same tokens as of the whole, and each piece once."""

from __future__ import annotations

from typing import Any

import pytest
from chat_templates import FAMILIES, tokenizer_of
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from r1pipe.models.pieces import Pieces
from r1pipe.models.templates import render
from r1pipe.records import Message
from r1pipe.train.conversations import TurnEncoder

TEXTS = (
    "a",
    "",
    "  two blanks before,  two after  ",
    "\n\n\u6240\u6709 \u0301 e\u0301 \U0001f600",
    "<|im_start|><|im_end|><|im_end|>",
    "almost <|im_en a token |im_end|>",
)


def counting(tokenizer: Any, given: list[str]) -> Any:
    """Return the tokenizer, noting every text that it is given."""
    cls = type(tokenizer)

    class Counting(cls):  # type: ignore[misc, valid-type]
        def __call__(self, text: str, **options: Any) -> Any:
            given.append(text)
            return super().__call__(text, **options)

    tokenizer.__class__ = Counting
    return tokenizer


def whole(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text that is not cut."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def word_tokenizer(*added: AddedToken, split_first: bool = True) -> Any:
    """Return a tokenizer of letters, in the manner of SentencePiece: blanks are marks, one of which
    is put before the text (or before every part of it)."""
    letters = {letter: i for i, letter in enumerate("\u2581abcdefghijklmnopqrstuvwxyz<|>_")}
    made = Tokenizer(models.BPE(vocab=letters, merges=[], unk_token="_"))
    scheme = "first" if split_first else "always"
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    made.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Strip()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made)
    tokenizer.add_tokens(list(added), special_tokens=True)
    return tokenizer


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_of_the_pieces_are_those_of_the_whole(family: str) -> None:
    tokenizer = tokenizer_of(family)
    turns = [
        {"role": role, "content": text} for text in TEXTS[:4] for role in ("user", "assistant")
    ]
    texts = [*TEXTS, "".join(FAMILIES[family].controls).join(TEXTS)]
    if FAMILIES[family].template:
        texts += [
            render(tokenizer, turns[:count], {}, is_asked=count % 2 == 1) for count in range(1, 9)
        ]
    pieces = Pieces(tokenizer)
    for text in texts * 2:
        assert pieces.ids(text) == whole(tokenizer, text)
        assert "".join(pieces.cut(text)) == text


@pytest.mark.parametrize("split_first", [True, False])
def test_marks_before_a_text_stand_where_they_do_in_the_whole(split_first: bool) -> None:
    tokenizer = word_tokenizer(AddedToken("<s>", normalized=False), split_first=split_first)
    for text in ("ab<s>cd<s> ef", "<s>ab", " ab <s> cd "):
        assert Pieces(tokenizer).ids(text) == whole(tokenizer, text)
    assert Pieces(tokenizer).cut("ab<s>cd<s>") == ["ab", "<s>cd", "<s>"]


@pytest.mark.parametrize(
    "added",
    [
        AddedToken("<s>", normalized=False, lstrip=True),
        AddedToken("<s>", normalized=False, single_word=True),
        AddedToken("<s>", normalized=True),
    ],
)
def test_no_cut_where_a_token_looks_at_what_is_before_it(added: AddedToken) -> None:
    tokenizer = word_tokenizer(added)
    for text in ("ab  <s>cd", "ab<s>cd", "<s> <s>"):
        assert Pieces(tokenizer).cut(text) == [text]
        assert Pieces(tokenizer).ids(text) == whole(tokenizer, text)


def test_no_cut_inside_a_longer_token() -> None:
    long, short = (AddedToken(text, normalized=False) for text in ("<s><s>a", "<s>"))
    tokenizer = word_tokenizer(short, long)
    assert Pieces(tokenizer).cut("b<s><s>ab<s>") == ["b", "<s><s>ab", "<s>"]
    assert Pieces(tokenizer).ids("b<s><s>ab<s>") == whole(tokenizer, "b<s><s>ab<s>")


def test_no_cut_for_a_tokenizer_that_splits_control_tokens() -> None:
    tokenizer = word_tokenizer(AddedToken("<s>", normalized=False))
    tokenizer.split_special_tokens = True
    assert Pieces(tokenizer).cut("ab<s>cd") == ["ab<s>cd"]


def conversation(turns: int) -> list[Message]:
    """Return turns of equal length, of which no two are equal."""
    return [
        Message("user" if n % 2 == 0 else "assistant", f"{n:04d} and some more words")
        for n in range(2 * turns)
    ]


@pytest.mark.parametrize("family", ["chatml", "llama-3", "mistral", "qwen-3", "deepseek-r1"])
def test_what_a_tokenizer_is_given_grows_with_the_conversation_not_with_its_square(
    family: str,
) -> None:
    given: list[str] = []
    encoder = TurnEncoder(counting(tokenizer_of(family), given))
    encoder.encode(conversation(1), "every-turn")  # what is found out once for a format
    sizes = []
    for turns in (8, 16, 32):
        given.clear()
        encoder.encode(conversation(turns), "every-turn")
        sizes.append(sum(map(len, given)))
    # every text as history and as what is said, and the openings
    assert sizes[1] - sizes[0] == pytest.approx(sizes[0], rel=0.1)
    assert sizes[2] - sizes[1] == pytest.approx(2 * (sizes[1] - sizes[0]), rel=0.01)


def test_pieces_of_a_conversation_are_forgotten_with_it() -> None:
    encoder = TurnEncoder(tokenizer_of("chatml"))
    sizes = set()
    for number in range(5):
        encoder.encode([Message("user", str(number)), *conversation(2)[1:]], "every-turn")
        encoder.prompt([Message("user", f"and {number}")])
        sizes.add(len(encoder._pieces._known))
    assert len(sizes) == 1
