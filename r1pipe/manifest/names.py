"""Names in a manifest: how they are written, and the nearest one to a name that is unknown."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from r1pipe.text import MAX_LISTED, did_you_mean, listed

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
"""Letters, digits, `-` and `_`, since `.` divides references."""
PARAM_REF = "$params."
MAX_PATH_BYTES, MAX_NAME_BYTES = 4000, 255


def nearest(name: str, choices: Iterable[str], what: str) -> str:
    """Return the end of a message about an unknown name: the nearest choice, or all of them."""
    names = sorted(choices)
    otherwise = f"{what}: {listed(names, MAX_LISTED)}" if names else f"there are no {what}"
    return f"; {did_you_mean(name, names, otherwise)}"


def path_fault(text: str) -> str | None:
    """Say why a text cannot be a path on any machine; None if it can be one."""
    if "\0" in text:
        return "a path has no NUL in it"
    if len(os.fsencode(text)) > MAX_PATH_BYTES or any(
        len(os.fsencode(part)) > MAX_NAME_BYTES for part in text.split("/")
    ):
        return "the path is too long"
    try:
        Path(text).expanduser()
    except RuntimeError:
        return f"there is no user '{text.split('/')[0].lstrip('~')}'; write the path in full"
    return None
