"""Answers given in a sentence: which words announce one, which take it back or leave it open.

What stands before an anchor counts ("the wrong answer is 5", "if the answer is 5"), and so does
what is behind the cut ("5, or maybe 6"). Every pattern has bounded repetition.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ANCHOR = re.compile(
    r"(?:\banswer\b|\b(?:correct|right) (?:option|choice)\b|答案)"
    r"(?: to (?:the|this) (?:problem|question))?[ \t*_]{0,8}"
    r"(?:(?:is|are|equals|should be|must be|comes out to(?: be)?|will be|would be)\b|为|是|[:：=])"
    r"|(?:故|应|因此|所以|则)(?:应)?选择?|正确(?:选项|答案)(?:为|是|[:：])"
    r"|(?:故|应)填|答[:：]|(?<!不)选(?=\s{0,4}[(（]?[A-J])",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"(?:\b(?:wrong|incorrect|false|invalid|mistaken|naive|tempting|not an?|not the|no)\s{1,3}"
    r"(?:final )?"
    r"|\b(?:if|suppose|supposing|assume|assuming|whether|unless|say|imagine)(?: that)?\s"
    r"(?:the|our|an?|this|its|your)?\s?(?:final |correct |right )?"
    r"|\b(?:might|may|could|would|can)\s(?:also )?(?:think|guess|say|believe|claim|expect|assume)"
    r"(?: that)?\s(?:the|our)?\s?(?:final |correct |right )?"
    r"|错误(?:的)?|若|如果|假设|不是)$",
    re.IGNORECASE,
)
_NEGATED = re.compile(r"\s*(?:not|n't|never)\b|\s*(?:不是|不)", re.IGNORECASE)
_OPENING = re.compile(
    r"\s*(?:therefore|thus|hence|then|simply|just|indeed|exactly|now|also)[,:]?\s", re.IGNORECASE
)
_REASON = re.compile(
    r",? (?:because|since|which|as|so that|so we|i\.e\.|not|but|that)\b"
    r"|,? (?:so|after)\b(?! [0-9])|, (?!and\b|or\b|if\b|when\b|for\b)(?=[a-zA-Z]{2,})"
)
_CHINESE_CLAUSE = re.compile(r"[,，](?=[一-鿿])")
_SENTENCE_END = re.compile(r"[。；;！!？?]|\.(?=\s|$|\*)")
_OPEN_END = re.compile(
    r"\b(?:or (?:perhaps|maybe|possibly|so|else)|alternatively|maybe|perhaps|possibly|otherwise)\b"
    r"|或者|也可能",
    re.IGNORECASE,
)
_TAKEN_BACK = re.compile(
    r"^\W{0,4}(?:wait|hmm|no,|actually|scratch that|on second thought|correction|but that is wrong"
    r"|that is (?:wrong|incorrect)|which is (?:wrong|incorrect|absurd|impossible))",
    re.IGNORECASE,
)
_CONTRADICTION = re.compile(r"\b(?:contradiction|contradicts|absurd)\b|矛盾", re.IGNORECASE)
_AFTER_ANCHOR = " \t\r*_:：=,，"
_MAX_CHARS, _BEFORE_CHARS = 1000, 60


@dataclass(frozen=True, slots=True)
class Said:
    """An answer in a sentence, and whether the sentence leaves it open or takes it back."""

    content: str
    is_hedge: bool


def find_phrase(text: str) -> Said | None:
    """Return what the last anchor that means it announces; one that is denied is left open."""
    denied = None
    for match in reversed(list(_ANCHOR.finditer(text))):
        before = text[max(0, match.start() - _BEFORE_CHARS) : match.start()]
        line = text[match.end() : match.end() + _MAX_CHARS].lstrip(_AFTER_ANCHOR + "\n")
        line = line.split("\n", 1)[0]
        if _DENIED.search(before) or _NEGATED.match(line):
            denied = denied or Said(line.strip()[:80], True)
            continue
        opening = _OPENING.match(line)
        line = line[opening.end() :] if opening is not None else line
        end = _SENTENCE_END.search(line, 1) if line else None
        sentence = line[: end.start()] if end is not None else line
        content = _cut(sentence)
        if content:
            after = line[end.end() :] if end is not None else ""
            return Said(content, _is_open(f"{sentence} {after}", after))
    return denied


def _is_open(said: str, after: str) -> bool:
    return any((_OPEN_END.search(said), _TAKEN_BACK.match(after), _CONTRADICTION.search(said)))


def _cut(sentence: str) -> str:
    """Cut off reasons and clauses behind an answer; conditions stay, for they are part of it."""
    content = sentence
    for pattern in (_REASON, _CHINESE_CLAUSE):
        match = pattern.search(content, 1) if content else None
        content = content[: match.start()] if match is not None else content
    return content.strip(_AFTER_ANCHOR)
