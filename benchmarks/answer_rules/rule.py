"""What a rule is, and the decimals and integers that several files of rules write.

A rule takes the gold answer's core and a random generator, and returns another answer, or None
where it does not apply. The docstring of a rule says why its label is certain. `answer_pairs.py`
confirms each result by a second reading (`values.py`), where there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from random import Random

Rule = Callable[[str, Random], str | None]


def decimal_of(value: Fraction) -> str | None:
    """Write a rational as a decimal that ends, or None."""
    for places in range(1, 9):
        scaled = value * 10**places
        if scaled.denominator == 1:
            digits = f"{abs(int(scaled)):0{places + 1}d}"
            return ("-" if value < 0 else "") + f"{digits[:-places]}.{digits[-places:]}"
    return None
