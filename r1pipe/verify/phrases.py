"""Checkers for answers in words: choices, exact words, phrases in a summary, refusals."""

from __future__ import annotations

from collections.abc import Iterable

from r1pipe.chat import split_completion
from r1pipe.records import Problem, Verdict
from r1pipe.verify.comparing.quantities import same_number
from r1pipe.verify.reading.extract import find_answer, find_choice
from r1pipe.verify.reading.numbers import parse_quantity
from r1pipe.verify.reading.words import CHOICE, letters, normal, unmarked

MAX_CHARS = 300
_LETTERS = "ABCDEFGHIJ"


def check_choice(problem: Problem, text: str) -> Verdict:
    """Verify a letter answer; several letters are wrong unless the gold has several."""
    gold = letters(problem.gold)
    if not gold:
        return Verdict.GOLD_UNUSABLE
    found = find_answer(text)
    if found.answer is not None and not letters(found.answer):
        found = find_choice(text) or found
    if found.answer is None:
        return Verdict.NO_ANSWER
    if found.is_hedge or len(found.answer) > MAX_CHARS:
        return Verdict.WRONG
    options = [str(option) for option in problem.meta.get("options") or ()]
    chosen = _chosen(found.answer, options)
    return Verdict.CORRECT if chosen == gold else Verdict.WRONG


def _chosen(answer: str, options: list[str]) -> str:
    """Return the letters chosen; with known options, the text after a letter must be its own."""
    named = letters(answer)
    if not options:
        return named
    if named:
        single = CHOICE.fullmatch(unmarked(answer))
        rest = single.group(4).strip() if single is not None else ""
        index = _LETTERS.index(named[0])
        is_other = rest and index < len(options) and _option(rest, options) not in (-1, index)
        return "" if is_other else named
    index = _option(unmarked(answer), options)
    return _LETTERS[index] if 0 <= index < len(_LETTERS) else ""


def _option(text: str, options: list[str]) -> int:
    """Return the index of the only option that `text` states, else -1."""
    hits = [index for index, option in enumerate(options) if _same_text(text, option)]
    return hits[0] if len(hits) == 1 else -1


def _same_text(text: str, option: str) -> bool:
    if normal(text) == normal(option):
        return True
    left, right = parse_quantity(text), parse_quantity(option)
    return left is not None and right is not None and same_number(right, left)


def check_word(problem: Problem, text: str) -> Verdict:
    """Verify an answer that is one word or phrase: the gold, or one of `meta["accept"]`."""
    accepted = {normal(word) for word in (problem.gold, *problem.meta.get("accept", ()))} - {""}
    if not accepted:
        return Verdict.GOLD_UNUSABLE
    found = find_answer(text)
    if found.answer is None:
        return Verdict.NO_ANSWER
    if found.is_hedge or len(found.answer) > MAX_CHARS:
        return Verdict.WRONG
    return Verdict.CORRECT if normal(unmarked(found.answer)) in accepted else Verdict.WRONG


def check_contains(problem: Problem, text: str) -> Verdict:
    """Verify a general prompt: the summary, never the thought, holds the gold phrase.

    `meta["accept"]` holds further right phrases; a summary that also holds one of
    `meta["reject"]` is wrong, so that listing everything earns nothing.
    """
    accepted = [problem.gold, *problem.meta.get("accept", ())]
    if not any(normal(phrase) for phrase in accepted):
        return Verdict.GOLD_UNUSABLE
    return _judge_summary(text, accepted, problem.meta.get("reject", ()))


def check_refusal(problem: Problem, text: str) -> Verdict:
    """Verify that the summary refuses: one of `meta["refusal"]`, none of `meta["reject"]`."""
    phrases = list(problem.meta.get("refusal", ()))
    if not any(normal(phrase) for phrase in phrases):
        return Verdict.GOLD_UNUSABLE
    return _judge_summary(text, phrases, problem.meta.get("reject", ()))


def check_judge(problem: Problem, text: str) -> Verdict:
    """Leave an answer in words to an LLM judge; decide only what needs none."""
    if not problem.gold.strip():
        return Verdict.GOLD_UNUSABLE
    part = split_completion(text).answer_part
    return Verdict.UNJUDGED if part and part.strip() else Verdict.NO_ANSWER


def _judge_summary(text: str, accepted: Iterable[str], rejected: Iterable[str]) -> Verdict:
    summary = split_completion(text).answer_part
    if summary is None or not normal(summary):
        return Verdict.NO_ANSWER
    words = normal(summary)
    if any(holds(words, phrase) for phrase in rejected):
        return Verdict.WRONG
    return Verdict.CORRECT if any(holds(words, p) for p in accepted) else Verdict.WRONG


def holds(words: str, phrase: str) -> bool:
    """Return whether normalised text holds a phrase; Latin phrases at word boundaries only."""
    wanted = normal(phrase)
    if not wanted:
        return False
    return f" {wanted} " in f" {words} " if wanted.isascii() else wanted in words
