"""The algebraic layer: sympy and math-verify, run only inside a worker that can be killed."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

from r1pipe.verify.normalise import plain

CORRECT, WRONG, GOLD_UNUSABLE = "correct", "wrong", "gold_unusable"
_PRECISION = 60
_ROUNDING = 12


def warm_up() -> None:
    """Import and exercise what the first pairs would otherwise pay for."""
    logging.disable(logging.CRITICAL)
    for gold, answer in (
        (r"\frac{1}{2}x^2", "x^2/2"),
        ("(1,2]", "1<x\\le 2"),
        (r"\sqrt{8}", r"2\sqrt{2}"),
    ):
        judge(gold, answer)


def judge(gold: str, answer: str) -> str:
    """Return whether the answer equals the gold one: `correct`, `wrong` or `gold_unusable`."""
    from math_verify import verify

    parsed = _parse_gold(gold)
    if not parsed:
        return GOLD_UNUSABLE
    given = _parse(answer)
    if not given:
        return WRONG
    is_right = verify(
        list(parsed),
        given,
        float_rounding=_ROUNDING,
        numeric_precision=_PRECISION,
        allow_set_relation_comp=True,
        timeout_seconds=None,
        raise_on_error=False,
    )
    return CORRECT if is_right else WRONG


@lru_cache(maxsize=4096)
def _parse_gold(gold: str) -> tuple[Any, ...]:
    return tuple(_parse(gold))


def _parse(text: str) -> list[Any]:
    from math_verify import parse

    wrapped = f"\\boxed{{{plain(text)}}}"
    return list(parse(wrapped, parsing_timeout=None, raise_on_error=False))
