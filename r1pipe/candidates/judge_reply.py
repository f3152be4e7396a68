"""Reading a judge's reply: one verdict, from the object that ends it, or the reason for none."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from r1pipe.chat import ANSWER_CLOSE, split_completion
from r1pipe.keys import Json, JsonObject
from r1pipe.records import FinishReason, Verdict

KEY = "correctness"
TOO_LONG, CUT_OFF, NO_JSON = "too_long", "cut_off", "no_json"
UNCLEAR, OTHER_WORD = "unclear", "other_word"
"""Why there is no verdict: the question fills the judge's context; the reply reached the token
limit; nothing in it speaks of correctness; something does besides an object that ends it; another
word than correct or incorrect."""
SPEAKS = re.compile(
    rf"[^\w\s.,;!?()-]\s*{KEY}|{KEY}(?:\s*[^\w\s.,;!?()-]|\s+(?:is|was|should)\b)", re.IGNORECASE
)
"""What reads as a verdict: the word beside a quote, a colon or another sign, or said of something.
The word alone, as in an analysis that checks the correctness of an answer, is none."""
MAX_TRIES = 64
"""Openings of objects that may be none in a clear reply. Each is read on to where it breaks, so
without a limit a reply of openings would take time by the square of its length."""

_VERDICTS = {"correct": Verdict.CORRECT, "incorrect": Verdict.WRONG}
_BACKSLASH = re.compile(r'\\(?:([\\"/bfnrt]|u[0-9a-fA-F]{4})|)')
_OPENING = re.compile(r'\{\s*"')
_HIDDEN_LETTER = re.compile(r"\\u00[4-7]")
"""A letter of ASCII that is written by its number: nobody does but to hide a word."""


def read_reply(text: str, finish_reason: FinishReason) -> tuple[Verdict, str]:
    """Return a reply's verdict, or CRASHED and what is wrong with it.

    Only the text after the judge's own thought is read, all of it. It must end with a JSON object
    that has `correctness`, perhaps in a fence, and nothing else in it may read as a verdict: what
    is quoted there is not the judge's. A reply without one clear verdict is the judge's failure,
    not the answer's.
    """
    if finish_reason is FinishReason.LENGTH:
        return Verdict.CRASHED, CUT_OFF
    reply = _without_closers(split_completion(text).answer_part or "")
    # backslashes that JSON does not know, LaTeX in an analysis, are kept as they are
    reply = _BACKSLASH.sub(lambda found: found[0] if found[1] else "\\\\", reply)
    objects = list(_objects(reply))
    start, end, last = objects[-1] if objects else (len(reply), 0, {})
    is_last = end == len(reply) and KEY in last
    rest = reply[:start] if is_last else reply
    if SPEAKS.search(rest) or _HIDDEN_LETTER.search(reply):
        return Verdict.CRASHED, UNCLEAR
    if not is_last:
        return Verdict.CRASHED, NO_JSON
    word = last[KEY]
    verdict = _VERDICTS.get(word.strip().lower()) if isinstance(word, str) else None
    return (Verdict.CRASHED, OTHER_WORD) if verdict is None else (verdict, "")


def _without_closers(reply: str) -> str:
    """Return a reply without the end of an answer tag or of a fence behind its object."""
    return reply.rstrip().removesuffix(ANSWER_CLOSE).rstrip().removesuffix("```").rstrip()


def _objects(text: str) -> Iterator[tuple[int, int, JsonObject]]:
    """Yield (start, end, value) of JSON objects that do not overlap, from the left."""
    decoder = json.JSONDecoder(strict=False, object_pairs_hook=_unambiguous)
    place = num_broken = 0
    while (opening := _OPENING.search(text, place)) and num_broken < MAX_TRIES:
        try:
            value, place = decoder.raw_decode(text, opening.start())
        except (ValueError, RecursionError):
            place, num_broken = opening.start() + 1, num_broken + 1
            continue
        yield opening.start(), place, value


def _unambiguous(pairs: list[tuple[str, Json]]) -> JsonObject:
    """Return the pairs of a JSON object; ValueError if a name comes twice."""
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name comes twice")
    return dict(pairs)
