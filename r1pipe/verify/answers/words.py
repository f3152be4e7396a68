"""Answers in words: letters of choices, and text that compares regardless of its marks."""

from __future__ import annotations

import re
import unicodedata

from r1pipe.verify.answers.normalise import plain

_TEXT = re.compile(
    r"\\(?:text|mathrm|textbf|textit|mathbf|operatorname|textrm|mathsf)(?![a-zA-Z])\s*\{([^{}]*)\}"
)


CHOICE = re.compile(
    r"(?:the\s+)?(?:(?:answer|option|choice)\s*(?:is)?\s*:?\s*|选项?\s*)?"
    r"(?:\(\s*([A-J])\s*\)|\[\s*([A-J])\s*\]|([A-J]))(?:\s*[.:)]|(?=\s*$)|(?<=[)\]])|\s*,(?!\s*[A-J]\b))(.*)",
    re.IGNORECASE | re.DOTALL,
)


_LETTER_LIST = re.compile(r"\(?\s*[A-J](?:\s*(?:,|and|&|;|\s|和|与)*\s*[A-J])*\s*\)?")


_PUNCTUATION = re.compile(r"[^\w\s%$+/-]|_")


def letters(answer: str) -> str:
    """Return the letters that an answer names, sorted ("B", "AC"), or "" where it names none.

    >>> letters("(B) 12"), letters("A, C"), letters("A or C"), letters("12")
    ('B', 'AC', '', '')
    """
    text = unmarked(answer)
    single = CHOICE.fullmatch(text)
    if single is not None:
        rest = single.group(4)
        letter = next(group for group in single.groups()[:3] if group)
        names_more = re.search(r"(?<![\w])\(?[A-J]\)?(?![\w])", rest) if len(rest) < 8 else None
        return letter.upper() if names_more is None else ""
    if _LETTER_LIST.fullmatch(text):
        named = re.sub(r"and", "", text)
        return "".join(sorted(set(re.findall("[A-J]", named))))
    return ""


def unmarked(answer: str) -> str:
    text = plain(answer)
    for _ in range(3):
        text = _TEXT.sub(r"\1", text)
    return plain(text)


def normal(text: str) -> str:
    """Return text case-folded, in NFKC, without punctuation, with single spaces.

    Each Chinese character is a word, so that a Latin word beside one is still a word.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    folded = re.sub(r"\b([ap])\.\s?m\b\.?", r"\1m", folded)
    spaced = re.sub(r"(?<=[a-z0-9])(?=[一-鿿])|(?<=[一-鿿])(?=[a-z0-9])", " ", folded)
    return " ".join(_PUNCTUATION.sub(" ", spaced).split())
