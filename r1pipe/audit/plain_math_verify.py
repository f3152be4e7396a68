"""Plain math-verify, as a pool can ask it: the verifier that an audit puts beside our own.

It has its default settings, but for its own time limits, which need the alarm that a worker has
for itself. It is shown the whole completion, and the gold answer in a box, the reading that favours
it.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sympy as sp

CORRECT, WRONG = "correct", "wrong"


def warm_up() -> None:
    """Import and run once what the first pairs would otherwise wait for."""
    logging.disable(logging.CRITICAL)
    for gold, completion in (("x+y", r"\boxed{y+x}"), ("(1,2]", r"\boxed{1<x\le 2}"), ("2", "2")):
        verdict(gold, completion)


def verdict(gold: str, completion: str) -> str:
    """Return `correct` or `wrong`, as `verify(parse(gold), parse(completion))` says."""
    from math_verify import parse, verify

    given = parse(completion, parsing_timeout=None)
    return CORRECT if verify(list(_parsed(gold)), given, timeout_seconds=None) else WRONG


def read_gold(gold: str) -> None:
    """Parse a gold answer into the cache."""
    _parsed(gold)


@lru_cache(maxsize=4096)
def _parsed(gold: str) -> tuple[sp.Basic | str, ...]:
    from math_verify import parse

    return tuple(parse(f"\\boxed{{{gold}}}", parsing_timeout=None))
