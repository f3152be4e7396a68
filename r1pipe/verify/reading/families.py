"""Qualifiers after an answer, and families: k pi for every integer k, c e^x for any constant c.

The letter of a parameter does not count, nor where a family of integers begins: 2k + 1 and 2n - 1
are the same numbers.
"""

from __future__ import annotations

import re

from r1pipe.verify.reading.naming import TEXT

_GREEK = r"\\(?:alpha|beta|theta|lambda|mu)"
_LETTER = rf"(?<![\\a-zA-Z0-9}}])(?:{_GREEK}|[a-zA-Z])(?:_\{{?[0-9a-z]\}}?)?(?![a-zA-Z])"
_LETTERS = rf"(?P<letters>{_LETTER}(?:\s*(?:,|and)\s*{_LETTER}){{0,3}})"
_SET = (
    r"\\in\s*(?P<set>\\mathbb\{[RZNQC]\}|[RZN])\s*(?:[\^_]\s*\{?(?:[*+]|(?:\\ge|>|\\geq)?\s*0)\}?)?"
)
_EVERY = (
    r"(?:(?:all|any|every|each|some|a|an|the|arbitrary|fixed|positive|non-?negative|real|nonzero)"
    r"\s+){0,4}"
)
_KIND = r"(?P<kind>integers?|(?:natural |real |complex )?numbers?|reals?|constants?|parameters?)"
_FOR = r"(?:(?:for|where|with|and|holds)\s+){0,2}"
_STARTS = r"\b(?:for|where|with|and|holds)\b"
_NOUN = r"(?:(?:integers?|reals?|constants?)\s+)?"
_END = r"\s*[)\]]?\s*$"
_QUALIFIERS = tuple(
    re.compile(rf"\s*{body}{_END}")
    for body in (
        rf"(?:[,;]|[,;]?\s*(?:\(|\\forall|{_STARTS}))\s*\(?{_FOR}{_EVERY}{_NOUN}{_LETTERS}\s*{_SET}",
        rf"(?:[,;]\s*|\(|{_STARTS}\s+){_FOR}{_LETTERS}\s*(?:is|are|being)?\s+{_EVERY}{_KIND}",
        rf"[,;]?\s*\(?{_STARTS}\s+{_EVERY}{_KIND}\s*{_LETTERS}",
        rf"[,;]?\s*\(?(?:for\s+{_EVERY}|\\forall\s*){_LETTERS}",
    )
)
_LOWEST = re.compile(r"\s*[,;]\s*\(?\s*(?P<letters>[i-n])\s*(?:\\ge|>)\s*[0-9]{1,3}\s*\)?\s*$")
_HINT = re.compile(r"\\in(?![a-z])|\\forall|for|where|with|integer|constant|(?:real|number)|\\ge|>")
_WORDS = re.compile(r"\b(?:for|where|is|are|any|all|integers?|constants?|numbers?)\b")
_SPARED = ("pi", "infty", "sin", "cos", "text")


def without_qualifier(text: str) -> str:
    """Return an answer without `for all x`, `k \\in \\mathbb{Z}` or the like behind it."""
    return _split(text)[0]


def parameters(text: str) -> dict[str, str]:
    """Return the letters that qualifiers declare, and what numbers each is of."""
    inside = text.strip().removesuffix(r"\}").replace("|", ",").replace(":", ",")
    return _split(inside)[1]


def _split(text: str) -> tuple[str, dict[str, str]]:
    declared: dict[str, str] = {}
    if not _HINT.search(text):
        return text, declared
    plain = TEXT.sub(lambda m: f" {m[1]} " if _WORDS.search(m[1]) else m[0], text)
    for _ in range(3):
        match = next((m for q in _QUALIFIERS if (m := q.search(plain))), None)
        match = match or _lowest(plain)
        if match is None or not plain[: match.start()].strip():
            break
        said = match.groupdict()
        domain = _domain(said.get("set") or "", match[0])
        for letter in re.findall(r"[a-zA-Z]+(?:_\{?[0-9a-z]\}?)?", said["letters"]):
            if letter not in _SPARED and letter != "and":
                name = letter.replace("{", "").replace("}", "")
                declared[name] = domain
        plain = plain[: match.start()].rstrip(" ,;(")
        text = plain
    return text, declared


def _domain(numbers: str, words: str) -> str:
    """Return `Z`, `N` for the positive or natural numbers, `R`, or "" where none is named."""
    if "N" in numbers or re.search(r"positive|natural|negative|\\ge|>|[*+]", words):
        return "N" if "R" not in numbers and "real" not in words else "R"
    if "Z" in numbers or "integer" in words:
        return "Z"
    return "R" if "R" in numbers or "real" in words else ""


def domains_conflict(gold: str, answer: str) -> bool:
    """Return whether letters run over other numbers: all integers are not the positive ones."""
    left, right = ({*parameters(text).values()} - {""} for text in (gold, answer))
    return bool(left and right and left != right)


def _lowest(text: str) -> re.Match[str] | None:
    """Find `, n >= 1` behind a value that has the letter, or behind an equation."""
    match = _LOWEST.search(text)
    if match is None or not re.search(
        rf"=|(?<![a-zA-Z]){match['letters']}(?![a-zA-Z])", text[: match.start()]
    ):
        return None
    is_about_it = re.match(rf"\s*{match['letters']}\s*(?:\\(?:le|ge|ne)|[<>])", text)
    return None if is_about_it else match
