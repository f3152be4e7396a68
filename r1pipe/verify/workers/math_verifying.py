"""math-verify, on gold answers that our own reader does not know and it reads whole.

It parses what it can and ignores the rest, so a gold answer counts as read only if a product of it
in brackets is read as that product. Its known false positives are refused before it is asked.
"""

from __future__ import annotations

import re
from functools import lru_cache

import sympy as sp

from r1pipe.verify.answers import scan
from r1pipe.verify.answers.latex import parse_expression
from r1pipe.verify.answers.values import TooBigError, UnreadableError

CORRECT, WRONG, GOLD_UNUSABLE = "correct", "wrong", "gold_unusable"
_PRECISION, _ROUNDING = 60, 12
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_IN_PARTS = re.compile(
    r"\\(?:text|mathrm|ldots|pmod|land|lor|neg|forall|exists|to|Rightarrow|quad|over(?:right)?(?:line|arrow)|vec)(?![a-zA-Z])|[,;:=<>&\u4e00-\u9fff]|[a-zA-Z]\(|\d\s+\d|(?<![\\a-zA-Z])[a-zA-Z]{3,}"
)
_PROBE = sp.Symbol("w")


def verdict_of(gold: str, answer: str) -> str:
    """Ask math-verify, with its roundings tightened, about answers that our reader cannot read."""
    from math_verify import verify

    parsed = parse_gold(gold)
    if not parsed:
        return GOLD_UNUSABLE
    if _slips_through(gold, answer) or _is_too_big(answer):
        return WRONG
    given = _parse(answer)
    is_right = bool(given) and verify(
        list(parsed),
        given,
        float_rounding=_ROUNDING,
        numeric_precision=_PRECISION,
        allow_set_relation_comp=True,
        timeout_seconds=None,
        raise_on_error=False,
    )
    return CORRECT if is_right else WRONG


def _is_too_big(answer: str) -> bool:
    try:
        parse_expression(answer)
    except TooBigError:
        return True
    except UnreadableError:
        return False
    return False


def _slips_through(gold: str, answer: str) -> bool:
    """Return whether math-verify would accept too much: equations compared by their last side, and
    trailing letters cut off as units."""
    if scan.first_at_top(answer, "=") and not scan.first_at_top(gold, "="):
        return True
    letters = [set(re.findall("[a-zA-Z]", _COMMAND.sub(" ", text))) for text in (gold, answer)]
    return not letters[1] <= letters[0]


@lru_cache(maxsize=4096)
def parse_gold(gold: str) -> tuple[sp.Basic | str, ...]:
    """Return what math-verify makes of a gold answer, or nothing where that is not all of it."""
    parsed = tuple(_parse(gold))
    return parsed if parsed and _is_covered(gold, parsed[0]) else ()


def _is_covered(gold: str, parsed: sp.Basic | str) -> bool:
    if _IN_PARTS.search(gold) or not isinstance(parsed, sp.Expr) or parsed.has(_PROBE):
        return False
    tagged = _parse(rf"\left({gold}\right)\cdot w")
    return bool(tagged) and isinstance(tagged[0], sp.Expr) and tagged[0].subs(_PROBE, 1) == parsed


def _parse(text: str) -> list[sp.Basic | str]:
    from math_verify import parse

    wrapped = f"\\boxed{{{text}}}"
    parsed = parse(wrapped, parsing_timeout=None, raise_on_error=False)
    return [value for value in parsed if not isinstance(value, str)] and list(parsed)
