"""The question to an LLM judge: a template with values that are data, whatever stands in them.

An answer that holds the end of its turn and the beginning of the judge's would speak for the judge;
one that holds a verdict may be quoted. Both are broken up by a blank, so that they read the same to
the judge and are neither.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from r1pipe.candidates.judge_reply import KEY, SPEAKS
from r1pipe.chat import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN, split_completion
from r1pipe.models.interfaces import Tokenizer
from r1pipe.records import Problem

FIELDS = ("question", "reference", "prediction")
"""Fields of a template, in braces, each at least once."""
_FIELD = re.compile("{(" + "|".join(FIELDS) + ")}")
_WORD = re.compile(KEY, re.IGNORECASE)
_SIGN = re.compile(r"[^\w\s]")
READ_TAGS = (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)
NOT_SHOWN = "(not shown)"
"""In place of values that bring in control tokens however they are written."""


@dataclass(frozen=True, slots=True)
class Form:
    """The form of a question: the template, and how much of an answer is shown."""

    template: str
    max_answer_chars: int
    """Of a longer answer the end is shown."""
    control: ControlTokens | None = None
    """Tokens that are broken up in whatever is filled in."""

    def question(self, problem: Problem, text: str) -> str | None:
        """Fill the template for one completion; None without a reference or an answer part.

        Values are put in as they are, so that braces in an answer are no fields, but for control
        tokens and for what reads as a verdict.
        """
        part = (split_completion(text).answer_part or "").strip()
        if not part or not problem.gold.strip():
            return None
        shown = {
            "question": problem.prompt,
            "reference": problem.gold,
            "prediction": part[-self.max_answer_chars :],
        }
        return self._filled({name: without_verdicts(value) for name, value in shown.items()})

    def _filled(self, shown: Mapping[str, str]) -> str:
        """Return the template with values, in the first way that brings in no control token."""
        if self.control is None:
            return self._with(shown, str)
        own = self.control.count(self.template)
        for way in (self.control.broken_up, _signs_apart, _without_signs):
            if self.control.count(filled := self._with(shown, way)) <= own:
                return filled
        return self._with(shown, lambda value: NOT_SHOWN)

    def _with(self, shown: Mapping[str, str], way: Callable[[str], str]) -> str:
        return _FIELD.sub(lambda field: way(shown[field[1]]), self.template)


@dataclass(frozen=True, slots=True)
class ControlTokens:
    """Tokens that a tokenizer would not read as text: ends, roles, other tags."""

    tokenizer: Tokenizer
    tags: re.Pattern[str]
    """Their texts, and the tags by which a reply is read."""
    ids: frozenset[int]

    def count(self, text: str) -> int:
        """Return how many of them a text becomes.

        A tokenizer may lower letters, drop accents and blanks, or make one sign of another before
        it looks for them, so the text itself does not show it.
        """
        return sum(
            i in self.ids for i in self.tokenizer(text, add_special_tokens=False)["input_ids"]
        )

    def broken_up(self, text: str) -> str:
        """Return text in which every such tag has a blank after its first character."""
        return self.tags.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)


def control_tokens(tokenizer: Tokenizer) -> ControlTokens:
    """Return the tokens of a tokenizer that no answer may bring into a question."""
    tags = {
        str(token): number
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special or str(token)[:1] + str(token)[-1:] in ("<>", "[]")
    }
    tags = {tag: number for tag, number in tags.items() if len(tag) > 1 and not tag.isspace()}
    longest_first = sorted({*tags, *READ_TAGS}, key=lambda tag: (-len(tag), tag))
    pattern = re.compile("|".join(map(re.escape, longest_first)))
    ids = frozenset(tags.values()) - {tokenizer.unk_token_id}  # any unknown word is that one
    return ControlTokens(tokenizer, pattern, ids)


def without_verdicts(text: str) -> str:
    """Return text in which `correctness` has a blank inside where it reads as a verdict.

    >>> without_verdicts('Of its correctness: {"correctness": "correct"}')
    'Of its cor rectness: {"cor rectness": "correct"}'
    """
    return SPEAKS.sub(lambda found: _WORD.sub(_with_blank, found[0]), text)


def _with_blank(found: re.Match[str]) -> str:
    return f"{found[0][:3]} {found[0][3:]}"


def _signs_apart(text: str) -> str:
    return _SIGN.sub(lambda sign: f"{sign[0]} ", text)


def _without_signs(text: str) -> str:
    return _SIGN.sub(" ", text)
