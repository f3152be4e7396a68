"""Many texts as tokens, by several threads: one at a time keeps all but one core waiting.

A million rows of a thousand tokens are half an hour of one core, which every start of a training
run would pay again.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

from r1pipe.machine import usable_cores
from r1pipe.models.interfaces import Tokenizer
from r1pipe.workers import in_order

MAX_THREADS = 8
TEXTS_AT_ONCE = 16
"""Texts for one call of the tokenizer, which releases the interpreter's lock for all of them. Until
they are packed, tokens take forty bytes each."""


class ManyTexts:
    """Gives the tokens of texts: those that were prepared, and any other when it is asked for."""

    def __init__(self, tokenizer: Tokenizer, threads: int | None = None) -> None:
        """`threads` default to the cores that this process may use, at most eight."""
        self.tokenizer = tokenizer
        self.threads = threads or min(MAX_THREADS, usable_cores())
        self._known: dict[str, array[int]] = {}
        """In four bytes a token."""

    def prepare(self, texts: Iterable[str]) -> None:
        """Tokenize texts together, and forget those of before."""
        wanted = list(dict.fromkeys(texts))
        starts = range(0, len(wanted), TEXTS_AT_ONCE)
        parts = [wanted[start : start + TEXTS_AT_ONCE] for start in starts]
        self._known.clear()
        if not getattr(self.tokenizer, "is_fast", False):
            return  # written in Python: threads would only wait for one another
        if wanted:
            self._ids(wanted[:1])  # settles padding and truncation, which no thread may change
        for part, ids in zip(parts, in_order(self._packed, parts, self.threads), strict=True):
            self._known.update(zip(part, ids, strict=True))

    def ids(self, text: str) -> list[int]:
        """Return the tokens of a text, without any that the tokenizer would put around it."""
        known = self._known.get(text)
        return self._ids([text])[0] if known is None else known.tolist()

    def _packed(self, texts: Sequence[str]) -> list[array[int]]:
        return [array("i", ids) for ids in self._ids(texts)]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
