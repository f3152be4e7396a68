"""Texts that begin alike as tokens: what was tokenized once is not tokenized again.

A tokenizer of the library `tokenizers` takes its control tokens out of a text before it does
anything else, and what lies between two of them does not see the rest. So a text may be cut before
any control token, and the tokens of the pieces are those of the whole.
"""

from __future__ import annotations

import re
from functools import cached_property
from itertools import pairwise

from r1pipe.models.interfaces import Tokenizer


class Pieces:
    """Tokenizes texts piece by piece, and remembers the pieces until it is told to forget them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        """Return the tokens of a text, without any that the tokenizer would put around it."""
        found: list[int] = []
        for piece in self.cut(text):
            if piece not in self._known:
                ids = self.tokenizer(piece, add_special_tokens=False)["input_ids"]
                self._known[piece] = list(ids)
            found += self._known[piece]
        return found

    def cut(self, text: str) -> list[str]:
        """Return the text in pieces, all but the first of which begin with a control token."""
        if self._controls is None:
            return [text]
        found = [m for m in self._controls.finditer(text) if m[0] in self._cuts and m.start()]
        places = [0, *(match.start() for match in found), len(text)]
        return [text[a:b] for a, b in pairwise(places)]

    def forget(self) -> None:
        """Forget all pieces: those of one conversation are seldom those of another."""
        self._known.clear()

    @cached_property
    def _cuts(self) -> frozenset[str]:
        """The tokens before which a text may be cut: they stand wherever their text does, and take
        no blanks from the piece before."""
        if not getattr(self.tokenizer, "is_fast", False):
            return frozenset()
        if getattr(self.tokenizer, "split_special_tokens", False):
            return frozenset()
        added = self.tokenizer.added_tokens_decoder.values()
        return frozenset(
            token.content
            for token in added
            if not (token.normalized or token.lstrip or token.single_word)
        )

    @cached_property
    def _controls(self) -> re.Pattern[str] | None:
        """All tokens that are found in the text as it stands, the longest first as in a tokenizer;
        None if there is none to cut before."""
        added = self.tokenizer.added_tokens_decoder.values()
        texts = sorted((t.content for t in added if not t.normalized), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, texts))) if self._cuts else None
