"""Text of token ids: what `tokenizer.decode` says, by the shorter way."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tiny import tokenizer
from transformers import BertTokenizer, ByT5Tokenizer

from r1pipe.models.tokenizer import decoder, train_tokenizer


class Shouting(type(tokenizer())):  # type: ignore[misc]
    """A tokenizer whose `decode` adds to what its backend does."""

    def decode(self, token_ids: Any, **options: Any) -> str:
        return str(super().decode(token_ids, **options)).upper()


def shouting() -> Any:
    return Shouting(tokenizer_object=tokenizer().backend_tokenizer)


def cleaning() -> Any:
    words = [
        "[UNK]",
        "[PAD]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "so",
        "it",
        "'",
        "s",
        ".",
        ",",
        "do",
        "n",
    ]
    made = BertTokenizer(vocab={word: place for place, word in enumerate(words)})
    made.clean_up_tokenization_spaces = True
    return made


MAKES = {
    "words": tokenizer,
    "qwen2": lambda: train_tokenizer(["so it is 中文 é"], 300, "qwen2"),
    "own decode": shouting,
    "cleans up": cleaning,
    "no backend": ByT5Tokenizer,
}


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_text_is_that_of_the_tokenizer(make: Any) -> None:
    made, rng = make(), random.Random(0)
    decode = decoder(made)
    for _ in range(300):
        ids = [rng.randrange(len(made)) for _ in range(rng.randrange(0, 30))]
        assert decode(ids) == made.decode(ids)


def test_no_id_is_looked_at_on_the_way_to_the_backend() -> None:
    assert decoder(tokenizer()) != tokenizer().decode
    assert decoder(shouting()).__name__ == "decode"
