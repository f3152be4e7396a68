"""Compare what programs wrote and what expressions were worth with what was expected."""

from __future__ import annotations

import math

from r1pipe.keys import Json


def same_text(output: str, expected: str, tolerance: float = 0.0) -> bool:
    """Compare outputs line by line; with a tolerance word by word, numbers by their values."""
    ours, theirs = lines_of(output), lines_of(expected)
    if not tolerance or ours == theirs:
        return ours == theirs
    return len(ours) == len(theirs) and all(
        len(a) == len(b) and all(_same_word(x, y, tolerance) for x, y in zip(a, b, strict=True))
        for a, b in zip(map(str.split, ours), map(str.split, theirs), strict=True)
    )


def _same_word(word: str, expected: str, tolerance: float) -> bool:
    if word == expected:
        return True
    try:
        values = float(word), float(expected)
    except ValueError:
        return False
    return "_" not in word and math.isclose(*values, rel_tol=tolerance, abs_tol=tolerance)


def same_json(value: Json, expected: Json, tolerance: float = 0.0) -> bool:
    """Compare JSON values with their types: True is not 1. Numbers may differ by the tolerance."""
    if isinstance(value, list) and isinstance(expected, list):
        return len(value) == len(expected) and all(
            same_json(a, b, tolerance) for a, b in zip(value, expected, strict=True)
        )
    if isinstance(value, dict) and isinstance(expected, dict):
        return value.keys() == expected.keys() and all(
            same_json(value[key], expected[key], tolerance) for key in value
        )
    if isinstance(value, bool) or isinstance(expected, bool):
        return value is expected
    if tolerance and isinstance(value, int | float) and isinstance(expected, int | float):
        try:
            return math.isclose(value, expected, rel_tol=tolerance, abs_tol=tolerance)
        except OverflowError:
            return value == expected
    return bool(value == expected)


def lines_of(output: str) -> list[str]:
    """Return the lines of an output without spaces at their ends and empty lines at its end."""
    return [line.rstrip() for line in output.rstrip().splitlines()]
