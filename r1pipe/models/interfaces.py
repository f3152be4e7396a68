"""Types of tokenizers and language models, for annotations: torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, overload

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from transformers import PreTrainedModel

LanguageModel: TypeAlias = "PreTrainedModel"
"""A causal language model of transformers."""


class Tokenizer(Protocol):
    """The part of transformers' `PreTrainedTokenizerBase` that is used here."""

    chat_template: str | None
    eos_token_id: int
    pad_token_id: int
    bos_token_id: int | None
    unk_token_id: int | None
    special_tokens_map: dict[str, str]
    """Role, such as `bos_token` -> token: what a chat template is told."""
    added_tokens_decoder: dict[int, AddedToken]
    """Token id -> a token that was added to the vocabulary: control tokens and tags."""

    def __len__(self) -> int:
        """Return the size of the vocabulary, added tokens included."""

    @overload
    def __call__(self, text: str, *, add_special_tokens: bool = True) -> Mapping[str, list[int]]:
        """Return the ids of a text as `input_ids`."""

    @overload
    def __call__(
        self, text: list[str], *, add_special_tokens: bool = True
    ) -> Mapping[str, list[list[int]]]:
        """Return the ids of each of several texts."""

    def add_tokens(self, new_tokens: Sequence[str]) -> int:
        """Add whole tokens to the vocabulary; return how many were new."""

    def add_special_tokens(self, special_tokens_dict: Mapping[str, object]) -> int:
        """Add control tokens by role; return how many were new."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Return the text of token ids."""

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, str]],
        *,
        add_generation_prompt: bool,
        tokenize: Literal[False],
        **options: bool | int | str,
    ) -> str:
        """Return the text of a conversation in the tokenizer's chat template."""

    def get_chat_template(self) -> str:
        """Return the chat template that counts, if there are several."""

    def convert_tokens_to_ids(self, tokens: str) -> int:
        """Return the id of a token."""

    def save_pretrained(self, save_directory: Path) -> object:
        """Write the tokenizer's files into a directory."""
