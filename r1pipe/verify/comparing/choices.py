"""Multiple choice: which letters an answer names, beside the text of the option or without it."""

from __future__ import annotations

import re

from r1pipe.verify.reading.naming import TEXT
from r1pipe.verify.reading.normalise import plain
from r1pipe.verify.reading.words import letters

_OPTION = re.compile(r"\(?([A-J])(?:\)[.:]?|[.\u3001])\s*(.+)", re.DOTALL)
_BARE_LIST = re.compile(r"\{?\(?[A-J]\)?(?:\s*(?:[,;&]|and|\s)?\s*\(?[A-J]\)?){1,8}\}?")
_NEGATED = re.compile(r"(?i)\b(?:not|neither|except|wrong|false)\b|不|非")


def split_option(text: str) -> tuple[str, str] | None:
    """Return the letter and the text of an option such as `(E) 10` or `D. 15 m/s`, else None."""
    bare = re.sub(r"^\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}", r"\1", text).strip()
    match = _OPTION.fullmatch(bare)
    return None if match is None or _is_letter(text) else (match[1], match[2].strip())


def _is_letter(text: str) -> bool:
    """Return whether the text is one capital letter and no more."""
    bare = TEXT.sub(r"\1", text).strip("() .:")
    return len(bare) == 1 and bare in "ABCDEFGHIJ"


def names_choice(text: str) -> bool:
    """Return whether an answer is letters of choices, with or without an option's text."""
    text = plain(text)
    return _is_letter(text) or bool(letters(text)) or len(_named(text)) > 1


def _named(text: str) -> set[str]:
    """Return the letters of a list: `A, C, D`, `ACD`, `(A),(C)`."""
    bare = TEXT.sub(r"\1", text).replace("\\", "").strip()
    return set(re.findall("[A-J]", bare)) if _BARE_LIST.fullmatch(bare) else set()


def same_choice(gold: str, answer: str) -> bool | None:
    """Compare as multiple choice where the gold is one or more capital letters, else None."""
    if _is_letter(gold):
        letter = letters(gold)
        if _NEGATED.search(answer):
            return False
        if answer.strip("() .") == letter.lower():
            return True
        chosen = letters(answer)
        if not chosen and (bold := re.fullmatch(r"\\textbf\{\(?([A-J])\)?\}.*", answer, re.DOTALL)):
            chosen = bold[1]
        return chosen == letter and letter in answer if chosen else None
    several = _named(gold)
    if len(several) > 1 and ("," in gold or " " in gold or sorted(gold) == list(gold)):
        is_hedge = re.search(r"\bor\b|或", answer) is not None
        return True if _named(answer) == several else False if is_hedge else None
    return None
