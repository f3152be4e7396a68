"""Answers in words: letters of choices, and text that compares regardless of its marks."""

from __future__ import annotations

import re
import unicodedata

from r1pipe.verify.reading.normalise import plain

_TEXT = re.compile(
    r"\\(?:text|mathrm|textbf|textit|mathbf|operatorname|textrm|mathsf)(?![a-zA-Z])\s*\{([^{}]*)\}"
)


CHOICE = re.compile(
    r"(?:the\s+)?(?:(?:answer|option|choice)\s*(?:is)?\s*:?\s*|(?:故|应)?选(?:项|择)?\s*[:：]?\s*)?"
    r"(?:\(\s*([A-J])\s*\)|\[\s*([A-J])\s*\]|([A-J]))(?:\s*[.:)]|(?=\s*$)|(?<=[)\]])|\s*,(?!\s*[A-J]\b))(.*)",
    re.IGNORECASE | re.DOTALL,
)


_LETTER_LIST = re.compile(r"\(?\s*[A-J](?:\s*(?:,|and|&|;|\s|和|与)*\s*[A-J])*\s*\)?")


_VOWEL = re.compile("[aeiou]", re.IGNORECASE)
_SHORT_WORDS = frozenset({"no", "on", "up", "so"})
_NAMES = frozenset(
    {"pi", "sin", "cos", "tan", "cot", "sec", "csc", "log", "exp", "inf", "infinity", "max", "min"}
    | {"gcd", "lcm", "sqrt", "abs", "floor", "ceil", "mod", "arcsin", "arccos", "arctan"}
)
_NO_SOLUTION = re.compile(
    r"(?:there (?:is|are) )?no (?:real |such |integer |valid ){0,3}(?:solutions?|roots?|[a-z])"
    r"(?: exists?)?"
    r"|none|(?:the )?empty set|(?:此?方程|不等式)?(?:无|没有)(?:实数?)?(?:解|根)|空集|phi"
)
_SAME = {
    "dne": "does not exist",
    "undefined": "does not exist",
    "不存在": "does not exist",
    "infinitely many": "infinite",
    "infinitely many solutions": "infinite",
    "infinite solutions": "infinite",
    "无数": "infinite",
    "对": "正确",
    "错": "错误",
    "不正确": "错误",
}
_ARTICLE = re.compile(r"^(?:a|an|the) (?=[a-z]{2})")
_ORDINAL = re.compile(r"\b([0-9]{1,2})(?:st|nd|rd|th)\b")
_DAY_FIRST = re.compile(r"^([0-9]{1,2}) (?:of )?([a-z]{3,9})$")
_WEEK = re.compile("^(?:周|礼拜)(?=[一二三四五六日天]$)")
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


def is_word(text: str) -> bool:
    """Return whether letters are a word and not a product of letters.

    A word has three letters and a vowel, and they do not come in order, as those of abc do.
    """
    bare = _TEXT.sub(r"\1", text).strip(" .")
    if not (bare.isascii() and bare.isalpha()) or bare.lower() in _NAMES:
        return False
    if bare.lower() in _SHORT_WORDS:
        return True
    return len(bare) > 2 and bool(_VOWEL.search(bare)) and list(bare) != sorted(bare)


def is_empty_set(text: str) -> bool:
    """Return whether a text says that there is no solution."""
    if re.sub(r"\s", "", text) in (r"\emptyset", r"\{\}", r"\phi"):
        return True
    return _NO_SOLUTION.fullmatch(normal(_TEXT.sub(r" \1 ", text))) is not None


def phrase(text: str) -> str:
    """Return a phrase as it is compared: without marks, case and article, one word for synonyms."""
    words = _ARTICLE.sub("", normal(_TEXT.sub(r" \1 ", text)))
    words = _DAY_FIRST.sub(r"\2 \1", _ORDINAL.sub(r"\1", words))
    words = _SAME.get(words.replace(" ", "") if not words.isascii() else words, words)
    return _WEEK.sub("星期", words.replace(" ", "")) if not words.isascii() else words
