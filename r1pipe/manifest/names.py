"""Names in a manifest: how they are written, and the nearest one to a name that is unknown."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
"""Letters, digits, `-` and `_`, since `.` divides references."""
PARAM_REF = "$params."


def nearest(name: str, choices: Iterable[str], what: str) -> str:
    """Return the end of a message about an unknown name: the nearest choice, or all of them."""
    names = sorted(choices)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; {what}: {', '.join(names)}" if names else f"; there are no {what}"
