"""Byte-level BPE tokenizers trained from scratch, with the recipe's tags as whole tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from r1pipe import chat
from r1pipe.models.interfaces import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TAGS = (chat.THINK_OPEN, chat.THINK_CLOSE, chat.ANSWER_OPEN, chat.ANSWER_CLOSE)
CONTROL = (chat.PAD, chat.END, chat.USER, chat.ASSISTANT)
SplitName = Literal["words", "qwen2"]
SPLITS: dict[SplitName, str] = {
    "words": r"\\[a-z]+\{?|\d| ?[A-Za-z]+ ?|[\u4e00-\u9fff]|\s+|[^\sA-Za-z0-9\u4e00-\u9fff]",
    "qwen2": r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
"""What a merge never crosses. `words`: each digit and operator is its own token, so that arithmetic
is learnable (as in Llama 3, Qwen), and so is each Chinese character; a word keeps the blanks around
it, which halves the tokens of the synthetic tasks. `qwen2`: as llama.cpp spells Qwen 2's."""


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, split: SplitName = "words"
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on `texts`; the same texts give the same tokenizer.

    The whole passage of the R1-Zero template is one vocabulary entry, so that the paper's exact
    words cost a tiny model one token. Tags are plain tokens (they survive decoding); pad and end
    of sequence are two different tokens, so that no mask can confuse them.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLITS[split]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(TAGS) - 1,
        special_tokens=list(CONTROL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    whole = [*TAGS, chat.R1_ZERO_PASSAGE]
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in whole])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=chat.PAD,
        eos_token=chat.END,
        additional_special_tokens=[chat.USER, chat.ASSISTANT],
        chat_template=chat.CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def decoder(tokenizer: Tokenizer) -> Callable[[list[int]], str]:
    """Return the fastest function from token ids to what `tokenizer.decode` makes of them.

    transformers' own looks at every id first, whether it is a tensor: as long as decoding takes.
    A tokenizer that does more than its backend, or has none, decodes by itself.
    """
    from transformers import PreTrainedTokenizerBase, TokenizersBackend

    kind: Any = type(tokenizer)
    is_plain = (
        isinstance(tokenizer, TokenizersBackend)
        and kind.decode is PreTrainedTokenizerBase.decode
        and kind._decode is TokenizersBackend._decode
        and not tokenizer.clean_up_tokenization_spaces
    )
    if not is_plain:
        return tokenizer.decode
    backend: Any = tokenizer
    return partial(backend.backend_tokenizer.decode, skip_special_tokens=False)


def split_of(folder: Path) -> SplitName | None:
    """Return which of `SPLITS` a folder's tokenizer has; None if it was made by others."""
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    pre = tokenizer.get("pre_tokenizer") or {}
    patterns = [part.get("pattern") for part in pre.get("pretokenizers", [])]
    found = (name for name, split in SPLITS.items() if patterns == [{"Regex": split}, None])
    return next(found, None)
