"""N-gram overlap with held-out texts, as DeepSeekMath section 2.1 removes contaminated text.

A text overlaps a held-out one when they share 10 words in a row; a held-out text of 3 to 9 words
must occur whole. A Chinese character counts as a word. Two variants find what that rule misses:

- `masked`: the same words with other numbers, digits or spelt out. At least six of the ten words
  must be no numbers or signs, or every sum would be like every other.
- `rewrapped`: the same letters and digits whatever stands between them (line ends, hyphens, markup,
  LaTeX commands, invisible characters): windows of the length of ten words, 50 letters or 10
  Chinese characters; a shorter held-out text must be the whole text.

Linear in the text, by hashing.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

MIN_WORDS = 3
NGRAM = 10
VARIANTS = ("plain", "masked", "rewrapped")
MASK = "0"
MIN_CONTENT_FRAC = 0.6
"""Share of a masked n-gram that must be words, not numbers or signs."""
LETTERS_PER_WORD = 5

_CJK = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_SPLIT = re.compile(f"[-+*/=^](?= ?[0-9])|[{_CJK}]|[^\\W_{_CJK}]+")
_MARKUP = re.compile(r"\\[a-z]+|<[/a-z][^<>]{0,200}>|&[a-z]{2,8};")
_BETWEEN = re.compile(r"[\W_]+")
_IS_CJK = re.compile(f"[{_CJK}]")
_NUMBER_WORD = re.compile(
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(thir|four|fif|six|seven"
    "|eigh|nine)teen|(twen|thir|for|fif|six|seven|eigh|nine)ty|hundred|thousand|million|half|twice"
    "|dozen|[零一二两三四五六七八九十百千万亿半]"
)


@dataclass(frozen=True, slots=True, order=True)
class Overlap:
    """One pair of prompts by position, and the words that they share."""

    train_index: int
    held_out_index: int
    shared: str


@dataclass(frozen=True, slots=True)
class Match:
    """A held-out text that a text overlaps, by which variant, and what they share first."""

    held_out_index: int
    variant: str
    shared: str


def words(text: str) -> list[str]:
    """Return the words of a text: case-folded, NFKC, one per CJK character or sign before a digit.

    Other punctuation is dropped.

    >>> words("Add 3+4, 再加 5")
    ['add', '3', '+', '4', '再', '加', '5']
    """
    return _SPLIT.findall(unicodedata.normalize("NFKC", text).casefold())


def masked(tokens: Iterable[str]) -> list[str]:
    """Return words with every run of numbers as one mask.

    >>> masked(words("He bought 1,250 pens and twenty five books"))
    ['he', 'bought', '0', 'pens', 'and', '0', 'books']
    """
    found: list[str] = []
    for token in tokens:
        if not _is_number(token):
            found.append(token)
        elif not found or found[-1] != MASK:
            found.append(MASK)
    return found


@lru_cache(maxsize=1 << 16)
def _is_number(token: str) -> bool:
    return token[0].isdigit() or _NUMBER_WORD.fullmatch(token) is not None


def letters(text: str) -> str:
    """Return the letters and digits of a text and nothing else, markup taken out.

    >>> letters("The re-\\nmaining \\\\frac{1}{2} of <b>them</b>")
    'theremaining12ofthem'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _BETWEEN.sub("", _MARKUP.sub(" ", folded))


class OverlapIndex:
    """Held-out texts, ready to be looked for in others."""

    def __init__(
        self, held_out: Sequence[str], n: int = NGRAM, variants: Sequence[str] = VARIANTS
    ) -> None:
        self.n = n
        self.variants = variants
        self.num_too_short = sum(len(words(text)) < MIN_WORDS for text in held_out)
        self._plain = _Grams(n)
        self._masked = _Grams(n)
        self._windows: dict[str, list[int]] = defaultdict(list)
        self._whole: dict[str, list[int]] = defaultdict(list)
        for index, text in enumerate(held_out):
            tokens = words(text)
            if len(tokens) >= MIN_WORDS:
                self._add(index, text, tokens)

    def _add(self, index: int, text: str, tokens: list[str]) -> None:
        if "plain" in self.variants:
            self._plain.add(tokens, index)
        if "masked" in self.variants:
            self._masked.add(masked(tokens), index, self._has_content)
        if "rewrapped" in self.variants:
            compact = letters(text)
            found = set(windows(compact, self.n))
            for window in found:
                self._windows[window].append(index)
            if not found:
                self._whole[compact].append(index)

    def _has_content(self, gram: tuple[str, ...]) -> bool:
        """Return whether a masked n-gram has a number, and enough other words to identify it."""
        content = sum(token != MASK and token[0].isalpha() for token in gram)
        return MASK in gram and content >= MIN_CONTENT_FRAC * self.n

    def matches(self, text: str) -> list[Match]:
        """Return every held-out text that a text overlaps, once, by the first variant that sees it.

        In the order of the variants, then of the place in the text.
        """
        found: dict[int, Match] = {}
        tokens = words(text)
        for variant in self.variants:
            for index, shared in self._hits(variant, text, tokens):
                if index not in found:
                    found[index] = Match(index, variant, shared)
        return list(found.values())

    def _hits(self, variant: str, text: str, tokens: list[str]) -> Iterator[tuple[int, str]]:
        if variant == "plain":
            yield from self._plain.hits(tokens)
        elif variant == "masked":
            yield from self._masked.hits(masked(tokens))
        else:
            compact = letters(text)
            for window in windows(compact, self.n):
                for index in self._windows.get(window, ()):
                    yield index, window
            for index in self._whole.get(compact, ()):
                yield index, compact


class _Grams:
    """N-grams (or short whole texts) by their first three words."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._by_head: dict[tuple[str, ...], dict[tuple[str, ...], list[int]]] = {}

    def add(
        self,
        tokens: Sequence[str],
        index: int,
        is_fit: Callable[[tuple[str, ...]], bool] = lambda gram: True,
    ) -> None:
        """Add the n-grams of one text; of fewer than three words there are none."""
        size = min(self.n, len(tokens))
        if size < min(MIN_WORDS, self.n):
            return
        for gram in {tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)}:
            if is_fit(gram):
                grams = self._by_head.setdefault(gram[:MIN_WORDS], {})
                grams.setdefault(gram, []).append(index)

    def hits(self, tokens: Sequence[str]) -> Iterator[tuple[int, str]]:
        """Yield (text, shared words) for every n-gram that a text shares, in its order."""
        width = min(MIN_WORDS, self.n)
        for start in range(len(tokens) - width + 1):
            grams = self._by_head.get(tuple(tokens[start : start + width]))
            if grams is None:
                continue
            for size in {len(gram) for gram in grams}:
                gram = tuple(tokens[start : start + size])
                for index in grams.get(gram, ()):
                    yield index, " ".join(gram)


def windows(text: str, n: int = NGRAM) -> Iterator[str]:
    """Yield the shortest stretch from each character on that is as long as `n` words.

    A letter or digit counts one, a CJK character five, and a word five.
    """
    size = LETTERS_PER_WORD * n
    if text.isascii():
        yield from (text[start : start + size] for start in range(len(text) - size + 1))
        return
    weights = (LETTERS_PER_WORD if _IS_CJK.match(char) else 1 for char in text)
    sums = [0, *accumulate(weights)]
    end = 0
    for start in range(len(text)):
        while end < len(text) and sums[end] - sums[start] < size:
            end += 1
        if sums[end] - sums[start] < size:
            return
        yield text[start:end]


def ngram_overlaps(
    train_prompts: Iterable[str], held_out_prompts: Sequence[str], n: int = NGRAM
) -> list[Overlap]:
    """Return every (training, held-out) pair that overlaps, each with its first shared words.

    Held-out texts of fewer than 3 words are too short to tell and match nothing.
    """
    index = OverlapIndex(held_out_prompts, n, ("plain",))
    return sorted(
        Overlap(number, match.held_out_index, match.shared)
        for number, prompt in enumerate(train_prompts)
        for match in index.matches(prompt)
    )
