"""Split an answer at its top level: brackets, LaTeX environments, words like "and" and "or"."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

_TOKEN = re.compile(
    r"\\begin\s*\{[a-zA-Z*]{1,20}\}|\\end\s*\{[a-zA-Z*]{1,20}\}|\\langle(?![a-zA-Z])"
    r"|\\rangle(?![a-zA-Z])|\\[a-zA-Z]+|\\.|[()\[\]{}]|.",
    re.DOTALL,
)
_OPEN = frozenset(["(", "[", "{", r"\{", r"\langle"])
_CLOSE = frozenset([")", "]", "}", r"\}", r"\rangle"])

_WORD_GLUE = re.compile(
    r"\\(?:text|mathrm|textrm|mbox|operatorname)\s*\{\s*(and|or|,)\s*\}", re.IGNORECASE
)
_AND = re.compile(r"\s*(?:\band\b|\\land(?![a-zA-Z])|\\wedge(?![a-zA-Z])|和|与|以及|且|及)\s*")
_OR = re.compile(r"\s*(?:\bor\b|\\lor(?![a-zA-Z])|\\vee(?![a-zA-Z])|或者|或是|或)\s*")


@lru_cache(maxsize=256)
def top_level(text: str) -> tuple[tuple[int, str, int], ...]:
    """Return (position, token, depth) of every token; brackets carry their outer depth."""
    tokens = []
    depth = 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token in _CLOSE or token.startswith(r"\end"):
            depth -= 1
        tokens.append((match.start(), token, depth))
        if token in _OPEN or token.startswith(r"\begin"):
            depth += 1
    return tuple(tokens)


def split_at(text: str, separators: Iterable[str]) -> list[str]:
    """Split at separators outside every bracket.

    >>> split_at(r"1, (2,3), \\{4,5\\}", ",")
    ['1', '(2,3)', '\\\\{4,5\\\\}']
    """
    wanted = frozenset(separators)
    parts: list[str] = []
    start = 0
    for position, token, depth in top_level(text):
        if depth == 0 and token in wanted:
            parts.append(text[start:position].strip())
            start = position + len(token)
    return [*parts, text[start:].strip()]


def first_at_top(text: str, tokens: Iterable[str]) -> str:
    """Return the first of the given tokens outside every bracket, or ""."""
    wanted = frozenset(tokens)
    return next((t for _, t, depth in top_level(text) if depth == 0 and t in wanted), "")


def glue_words(text: str) -> str:
    """Turn "and" into a comma and "or" into `\\lor`, in both languages."""
    text = _WORD_GLUE.sub(r" \1 ", text)
    text = _OR.sub(r" \\lor ", text)
    text = _AND.sub(" , ", text)
    return re.sub(r"(?:,\s*){2,}", ", ", text)


def outer_brackets(text: str) -> tuple[str, str, str] | None:
    """Return (opener, inside, closer) where one pair of brackets encloses the whole text."""
    tokens = top_level(text)
    if len(tokens) < 2:
        return None
    (_, opener, _), (last, closer, _) = tokens[0], tokens[-1]
    if opener not in _OPEN or closer not in _CLOSE or tokens[-1][2] != 0:
        return None
    if any(depth <= 0 and token in _CLOSE for _, token, depth in tokens[1:-1]):
        return None
    return opener, text[len(opener) : last].strip(), closer
