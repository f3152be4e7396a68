"""N-gram overlap between problem sets, as DeepSeekMath section 2.1 removes contaminated text.

A training prompt overlaps a held-out one when they share 10 words in a row; a held-out text of 3 to
9 words must occur whole. A Chinese character counts as a word. Linear in the text, by hashing.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MIN_WORDS = 3


@dataclass(frozen=True, slots=True, order=True)
class Overlap:
    """One pair of prompts by position, and the words that they share."""

    train_index: int
    held_out_index: int
    shared: str


def words(text: str) -> list[str]:
    """Return the words of a text: case-folded, NFKC, one per CJK character or sign before a digit.

    Other punctuation is dropped.

    >>> words("Add 3+4, 再加 5")
    ['add', '3', '+', '4', '再', '加', '5']
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return [part for part in _SPLIT.findall(folded) if part]


_SPLIT = re.compile(
    "[-+*/=^](?= ?[0-9])|[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
    "|[^\\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+"
)


def ngram_overlaps(
    train_prompts: Iterable[str], held_out_prompts: Sequence[str], n: int = 10
) -> list[Overlap]:
    """Return every (training, held-out) pair that overlaps, each with its first shared words.

    Held-out texts of fewer than 3 words are too short to tell and match nothing.
    """
    grams = _held_out_grams(held_out_prompts, n)
    sizes = sorted({len(gram) for gram in grams})
    overlaps: list[Overlap] = []
    for train_index, prompt in enumerate(train_prompts):
        tokens = words(prompt)
        seen: set[int] = set()
        for size in sizes:
            for start in range(len(tokens) - size + 1):
                gram = tuple(tokens[start : start + size])
                for held_out_index in grams.get(gram, ()):
                    if held_out_index not in seen:
                        seen.add(held_out_index)
                        overlaps.append(Overlap(train_index, held_out_index, " ".join(gram)))
    return sorted(overlaps)


def _held_out_grams(prompts: Sequence[str], n: int) -> dict[tuple[str, ...], list[int]]:
    """Map each n-gram (or short whole text) to the held-out prompts that it stands in."""
    grams: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        tokens = words(prompt)
        if len(tokens) < MIN_WORDS:
            continue
        size = min(n, len(tokens))
        for gram in {tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)}:
            grams[gram].append(index)
    return dict(grams)
